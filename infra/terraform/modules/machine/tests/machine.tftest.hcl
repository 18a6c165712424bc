variables {
  region         = "eu"
  role           = "core"
  kind           = "core"
  control        = true
  address        = "192.0.2.1"
  volume         = "/dev/disk/by-id/volume-1"
  image_registry = "registry.example.com/meridian"
  image_version  = "v1"
}

run "core" {
  command = plan
  assert {
    condition     = startswith(output.user_data, "#cloud-config\n")
    error_message = "cloud-init knows its files by their first line"
  }
  assert {
    condition     = yamldecode(output.user_data).mounts[0][0] == "/dev/disk/by-id/volume-1"
    error_message = "the volume is mounted"
  }
  assert {
    condition     = strcontains({ for f in yamldecode(output.user_data).write_files : f.path => f.content }["/etc/meridian/.env"], "COMPOSE_PROFILES=core,control\n")
    error_message = "a control region's core runs etcd and PostgreSQL"
  }
  assert {
    condition     = yamldecode(base64decode({ for f in yamldecode(output.user_data).write_files : f.path => f.content }["/etc/meridian/compose.yml"])).services.api.network_mode == "host"
    error_message = "services share the machine's network"
  }
}

run "second_edge" {
  command = plan
  variables {
    role    = "edge-2"
    kind    = "edge"
    address = "192.0.2.3"
    volume  = ""
  }
  assert {
    condition     = strcontains({ for f in yamldecode(output.user_data).write_files : f.path => f.content }["/etc/meridian/.env"], "MERIDIAN_NUMBER=2\n")
    error_message = "an edge's number is its role's"
  }
  assert {
    condition     = !can(yamldecode(output.user_data).mounts)
    error_message = "without a volume nothing is mounted"
  }
}

run "core_without_quorum" {
  command = plan
  variables {
    control = false
  }
  assert {
    condition     = strcontains({ for f in yamldecode(output.user_data).write_files : f.path => f.content }["/etc/meridian/.env"], "COMPOSE_PROFILES=core\n")
    error_message = "a serving region has no database"
  }
}

run "refuses_an_unknown_kind" {
  command = plan
  variables {
    kind = "router"
  }
  expect_failures = [var.kind]
}
