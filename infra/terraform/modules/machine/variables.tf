variable "region" {
  type = string
}

variable "role" {
  description = "Name of the machine in its region: core, edge-1, encoder-1."
  type        = string
}

variable "kind" {
  type = string
  validation {
    condition     = contains(["core", "edge", "encoder"], var.kind)
    error_message = "kind: want core, edge or encoder."
  }
}

variable "control" {
  description = "Whether the region holds quorum."
  type        = bool
}

variable "address" {
  description = "The machine's public IPv4 address."
  type        = string
}

variable "volume" {
  description = "Device of the data volume, formatted ext4; empty for none."
  type        = string
}

variable "image_registry" {
  type = string
}

variable "image_version" {
  type = string
}
