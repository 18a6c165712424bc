locals {
  # Machines of a region: role → what it is. Edges are numbered from 1.
  roles = {
    for name, r in var.regions : name => merge(
      { core = { kind = "core", type = var.machines.core, volume_gb = var.machines.core_volume_gb } },
      { for i in range(1, r.edges + 1) : "edge-${i}" => { kind = "edge", type = var.machines.edge, volume_gb = var.machines.edge_volume_gb } },
      { for i in range(1, r.encoders + 1) : "encoder-${i}" => { kind = "encoder", type = var.machines.encoder, volume_gb = 0 } },
    )
  }

  names = [for n in sort([for name, r in var.regions : format("%05d %s", r.number, name)]) : split(" ", n)[1]]

  table = [
    for name in local.names : {
      name      = name
      place     = var.regions[name].place
      latitude  = var.regions[name].latitude
      longitude = var.regions[name].longitude
      control   = var.regions[name].control
      api       = "http://${var.addresses[name]["core"]}:8080"
      router    = { url = "http://${var.addresses[name]["core"]}:8081", dns = "${var.addresses[name]["core"]}:53" }
      edges = [
        for i in range(1, var.regions[name].edges + 1) : {
          name      = "${name}-${i}"
          url       = "http://${var.addresses[name]["edge-${i}"]}:8082"
          addresses = [var.addresses[name]["edge-${i}"]]
        }
      ]
      s3       = "https://${var.addresses[name]["core"]}:9000"
      nats     = "tls://${var.addresses[name]["core"]}:4222"
      postgres = var.regions[name].control ? "${var.addresses[name]["core"]}:5432" : ""
      rtt      = { for other, ms in var.regions[name].rtt_ms : other => "${ms}ms" }
    } if contains(keys(var.addresses), name)
  ]

  costs = {
    for name, roles in local.roles : name => merge(
      { for kind in ["core", "edge", "encoder"] : kind => sum(concat([0], [for r in values(roles) : lookup(var.prices.machines, r.type, 0) if r.kind == kind])) },
      {
        volumes   = sum([for r in values(roles) : r.volume_gb]) * var.prices.volume_gb
        addresses = length(roles) * var.prices.address
      },
    )
  }
}
