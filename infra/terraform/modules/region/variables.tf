variable "name" {
  type = string
}

variable "location" {
  type = string
}

variable "control" {
  type = bool
}

variable "roles" {
  description = "Machines: role → kind, type and size of the volume in GB."
  type = map(object({
    kind      = string
    type      = string
    volume_gb = number
  }))
}

variable "public_rules" {
  description = "What the world may reach, by kind of machine."
  type = map(list(object({
    protocol = string
    port     = string
  })))
}

variable "operators" {
  type = list(string)
}

variable "ssh_keys" {
  type = list(string)
}

variable "image_registry" {
  type = string
}

variable "image_version" {
  type = string
}
