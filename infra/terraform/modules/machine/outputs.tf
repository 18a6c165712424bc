output "user_data" {
  description = "For cloud-init."
  value       = local.user_data

  precondition {
    condition     = length(local.user_data) <= 32768
    error_message = "user_data: more than 32 KiB, which clouds refuse."
  }
}
