variable "zone" {
  type = string
  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", var.zone))
    error_message = "zone: want a domain in lower case without trailing dot, such as video.example.com."
  }
}

variable "regions" {
  type = map(object({
    number    = number
    place     = string
    location  = string
    latitude  = number
    longitude = number
    control   = optional(bool, true)
    edges     = optional(number, 2)
    encoders  = optional(number, 1)
    rtt_ms    = map(number)
  }))
  validation {
    condition     = alltrue([for name in keys(var.regions) : can(regex("^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$", name))])
    error_message = "regions: names are DNS labels of at most 16 characters."
  }
  validation {
    condition     = contains([1, 3], length([for r in values(var.regions) : r if r.control]))
    error_message = "regions: one or three control regions; two lose their majority with either."
  }
  validation {
    condition     = length(distinct([for r in values(var.regions) : r.number])) == length(var.regions)
    error_message = "regions: every region has a number of its own."
  }
  validation {
    condition     = alltrue([for r in values(var.regions) : abs(r.latitude) <= 90 && abs(r.longitude) <= 180])
    error_message = "regions: latitude within 90, longitude within 180 degrees."
  }
  validation {
    condition     = alltrue([for name, r in var.regions : toset(keys(r.rtt_ms)) == setsubtract(keys(var.regions), [name])])
    error_message = "regions: rtt_ms has exactly the other regions."
  }
  validation {
    condition     = alltrue(flatten([for name, r in var.regions : [for other, ms in r.rtt_ms : ms > 0 && ms == try(var.regions[other].rtt_ms[name], -1)]]))
    error_message = "regions: round-trip times are positive, and the same both ways."
  }
  validation {
    condition     = alltrue([for r in values(var.regions) : r.edges >= 1 && r.edges <= 9 && r.encoders >= 0])
    error_message = "regions: one to nine edges, and no negative number of encoders."
  }
}

variable "machines" {
  type = object({
    core           = optional(string, "cpx41")
    edge           = optional(string, "cpx31")
    encoder        = optional(string, "cpx51")
    core_volume_gb = optional(number, 500)
    edge_volume_gb = optional(number, 100)
  })
  default = {}
  validation {
    condition     = var.machines.core_volume_gb >= 50 && var.machines.edge_volume_gb >= 10
    error_message = "machines: want at least 50 GB for a core's volume, 10 GB for an edge's."
  }
}

variable "operators" {
  type = list(string)
  validation {
    condition     = length(var.operators) > 0 && alltrue([for n in var.operators : can(cidrhost(n, 0)) && !endswith(n, "/0")])
    error_message = "operators: networks in CIDR notation, and not the whole world."
  }
}

variable "prices" {
  type = object({
    machines  = map(number)
    volume_gb = number
    address   = number
  })
  default = { machines = {}, volume_gb = 0, address = 0 }
}

variable "addresses" {
  description = "Address by region and role; empty before there are any."
  type        = map(map(string))
  default     = {}
}
