output "region_table" {
  description = "regions.yaml, for `meridian provision` and every component."
  value       = module.table.region_table
}

output "delegation" {
  description = "Records for the parent of the zone: who answers for it, and where they are."
  value       = module.table.delegation
}

output "machines" {
  description = "Address by region and role; push.sh reads it."
  value       = local.addresses
}

output "costs" {
  description = "Monthly costs in euro by region and part, from var.prices, without traffic above what is included."
  value       = module.plan.costs
}
