locals {
  # Hetzner's limit for user data is 32 KiB, and others' is no larger than 16.
  user_data = templatefile("${path.module}/cloud-init.yaml.tftpl", {
    region   = var.region
    role     = var.role
    kind     = var.kind
    control  = var.control
    address  = var.address
    volume   = var.volume
    registry = var.image_registry
    version  = var.image_version
    compose  = file("${path.module}/compose.yml")
    services = file("${path.module}/../../../../deploy/compose/services.yml")
  })
}
