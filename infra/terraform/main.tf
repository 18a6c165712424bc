locals {
  # Addresses come first: the region table names them, certificates hold them.
  addresses = { for name, r in module.region : name => r.addresses }
}

module "plan" {
  source    = "./modules/plan"
  zone      = var.zone
  regions   = var.regions
  machines  = var.machines
  operators = var.operators
  prices    = var.prices
}

module "region" {
  source         = "./modules/region"
  for_each       = var.regions
  name           = each.key
  location       = each.value.location
  control        = each.value.control
  roles          = module.plan.roles[each.key]
  ssh_keys       = var.ssh_keys
  public_rules   = module.plan.public_rules
  operators      = var.operators
  image_registry = var.image_registry
  image_version  = var.image_version
}

# Stores of a region are open to the machines of all regions and to nobody else;
# on top of that they ask for certificates and passwords.
resource "hcloud_firewall" "stores" {
  for_each = var.regions
  name     = "meridian-${each.key}-stores"

  dynamic "rule" {
    for_each = module.plan.store_ports
    content {
      direction  = "in"
      protocol   = "tcp"
      port       = rule.value
      source_ips = [for a in flatten([for r in local.addresses : values(r)]) : "${a}/32"]
    }
  }
}

resource "hcloud_firewall_attachment" "stores" {
  for_each    = var.regions
  firewall_id = hcloud_firewall.stores[each.key].id
  server_ids  = [module.region[each.key].core_id]
}

module "table" {
  source    = "./modules/plan"
  zone      = var.zone
  regions   = var.regions
  machines  = var.machines
  operators = var.operators
  prices    = var.prices
  addresses = local.addresses
}
