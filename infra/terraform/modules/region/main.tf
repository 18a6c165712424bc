locals {
  world = ["0.0.0.0/0", "::/0"]
  disks = { for role, r in var.roles : role => r if r.volume_gb > 0 }
}

# Addresses outlive machines: the region table and certificates hold them.
resource "hcloud_primary_ip" "machine" {
  for_each    = var.roles
  name        = "meridian-${var.name}-${each.key}"
  type        = "ipv4"
  location    = var.location
  auto_delete = false
  labels      = { meridian = var.name }
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

module "machine" {
  source         = "../machine"
  for_each       = var.roles
  region         = var.name
  role           = each.key
  kind           = each.value.kind
  control        = var.control
  address        = hcloud_primary_ip.machine[each.key].ip_address
  volume         = try(hcloud_volume.data[each.key].linux_device, "")
  image_registry = var.image_registry
  image_version  = var.image_version
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

  # The attachments of stores' firewalls are their own resources.
  ignore_remote_firewall_ids = true

  user_data = module.machine[each.key].user_data

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
