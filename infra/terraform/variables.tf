variable "zone" {
  description = "DNS zone that Meridian's name servers answer for, such as video.example.com. Its parent must delegate it (output delegation)."
  type        = string
}

variable "regions" {
  description = "Regions by name, in order of preference of their numbers. location is Hetzner's; control regions hold quorum and must be one or three."
  type = map(object({
    number    = number
    place     = string
    location  = string
    latitude  = number
    longitude = number
    control   = optional(bool, true)
    edges     = optional(number, 2)
    encoders  = optional(number, 1)
    # Round-trip times to the other regions, in milliseconds.
    rtt_ms = map(number)
  }))
  default = {
    eu = { number = 1, place = "Falkenstein", location = "fsn1", latitude = 50.48, longitude = 12.37, rtt_ms = { us = 95, ap = 165 } }
    us = { number = 2, place = "Ashburn", location = "ash", latitude = 39.04, longitude = -77.49, rtt_ms = { eu = 95, ap = 220 } }
    ap = { number = 3, place = "Singapore", location = "sin", latitude = 1.35, longitude = 103.82, rtt_ms = { eu = 165, us = 220 } }
  }
}

variable "machines" {
  description = "Machine types, and the size in GB of the core's volume (objects and databases) and of each edge's (cache)."
  type = object({
    core           = optional(string, "cpx41")
    edge           = optional(string, "cpx31")
    encoder        = optional(string, "cpx51")
    core_volume_gb = optional(number, 500)
    edge_volume_gb = optional(number, 100)
  })
  default = {}
}

variable "ssh_keys" {
  description = "Names of SSH keys in the project, for the operators and push.sh."
  type        = list(string)
}

variable "operators" {
  description = "Networks that may reach SSH, in CIDR notation."
  type        = list(string)
}

variable "image_registry" {
  description = "Registry and path of the images of `make images`, such as registry.example.com/meridian."
  type        = string
}

variable "image_version" {
  description = "Tag of the images. Change it in one region after another."
  type        = string
}

variable "prices" {
  description = "Monthly prices in euro by machine type, and per GB of volume; the provider's page has today's. For the output costs alone."
  type = object({
    machines  = map(number)
    volume_gb = number
    address   = number
  })
  default = {
    machines  = { cpx31 = 14, cpx41 = 26, cpx51 = 55 }
    volume_gb = 0.044
    address   = 0.5
  }
}
