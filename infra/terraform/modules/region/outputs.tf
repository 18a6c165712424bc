output "addresses" {
  description = "Address by role."
  value       = { for role, ip in hcloud_primary_ip.machine : role => ip.ip_address }
}

output "core_id" {
  value = hcloud_server.machine["core"].id
}
