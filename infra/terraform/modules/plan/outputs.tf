output "roles" {
  value = local.roles
}

output "region_table" {
  value = yamlencode({ zone = var.zone, regions = local.table })
}

output "delegation" {
  description = "NS records of the zone and the addresses of their targets."
  value = {
    for name in local.names : "${name}.ns.${var.zone}" => try(var.addresses[name]["core"], "")
  }
}

# Who may reach what besides the stores, which are for the platform's own machines.
output "public_rules" {
  value = {
    core = [
      { protocol = "tcp", port = "8080" },
      { protocol = "tcp", port = "8081" },
      { protocol = "udp", port = "53" },
      { protocol = "tcp", port = "53" },
    ]
    edge    = [{ protocol = "tcp", port = "8082" }]
    encoder = []
  }
}

# MinIO, NATS and its cluster, PostgreSQL, Patroni, etcd.
output "store_ports" {
  value = ["9000", "4222", "6222", "5432", "8008", "2379-2380"]
}

output "costs" {
  value = merge(local.costs, { total = { all = sum([for r in values(local.costs) : sum(values(r))]) } })
}
