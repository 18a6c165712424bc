locals {
  world = ["0.0.0.0/0", "::/0"]
  disks = { for role, r in var.roles : role => r if r.volume_gb > 0 }
}

# Addresses outlive machines: the region table and certificates hold them.
resource "hcloud_primary_ip" "machine" {
  for_each      = var.roles
  name          = "meridian-${var.name}-${each.key}"
  type          = "ipv4"
  location      = var.location
  assignee_type = "server"
  auto_delete   = false
  labels        = { meridian = var.name }
}

resource "hcloud_volume" "data" {
  for_each          = local.disks
  name              = "meridian-${var.name}-${each.key}"
  location          = var.location
  size              = each.value.volume_gb
  format            = "ext4"
  delete_protection = each.value.kind == "core"
  labels            = { meridian = var.name }
}

resource "hcloud_firewall" "public" {
  for_each = var.public_rules
  name     = "meridian-${var.name}-${each.key}"

  rule {
    direction  = "in"
    protocol   = "tcp"
    port       = "22"
    source_ips = var.operators
  }

  dynamic "rule" {
    for_each = each.value
    content {
      direction  = "in"
      protocol   = rule.value.protocol
      port       = rule.value.port
      source_ips = local.world
    }
  }
}

resource "hcloud_server" "machine" {
  for_each     = var.roles
  name         = "meridian-${var.name}-${each.key}"
  server_type  = each.value.type
  location     = var.location
  image        = "debian-12"
  ssh_keys     = var.ssh_keys
  labels       = { meridian = var.name, kind = each.value.kind }
  firewall_ids = [hcloud_firewall.public[each.value.kind].id]

  user_data = templatefile("${path.module}/cloud-init.yaml.tftpl", {
    region   = var.name
    role     = each.key
    kind     = each.value.kind
    control  = var.control
    address  = hcloud_primary_ip.machine[each.key].ip_address
    volume   = try(hcloud_volume.data[each.key].linux_device, "")
    registry = var.image_registry
    version  = var.image_version
    compose  = file("${path.module}/compose.yml")
    services = file("${path.module}/../../../../deploy/compose/services.yml")
  })

  public_net {
    ipv4         = hcloud_primary_ip.machine[each.key].id
    ipv6_enabled = false
  }

  lifecycle {
    # Machines are replaced one by one, by hand: a region's quorum must not go at once.
    ignore_changes = [user_data, image]
  }
}

resource "hcloud_volume_attachment" "data" {
  for_each  = local.disks
  volume_id = hcloud_volume.data[each.key].id
  server_id = hcloud_server.machine[each.key].id
  automount = false
}
