variables {
  zone      = "video.example.com"
  operators = ["198.51.100.0/24"]
  regions = {
    eu = { number = 1, place = "Falkenstein", location = "fsn1", latitude = 50.48, longitude = 12.37, rtt_ms = { us = 95, ap = 165 } }
    us = { number = 2, place = "Ashburn", location = "ash", latitude = 39.04, longitude = -77.49, rtt_ms = { eu = 95, ap = 220 } }
    ap = { number = 3, place = "Singapore", location = "sin", latitude = 1.35, longitude = 103.82, encoders = 0, rtt_ms = { eu = 165, us = 220 } }
  }
  prices = { machines = { cpx31 = 10, cpx41 = 20, cpx51 = 40 }, volume_gb = 0.1, address = 1 }
}

run "costs_and_roles" {
  command = plan
  assert {
    condition     = join(" ", sort(keys(output.roles["eu"]))) == "core edge-1 edge-2 encoder-1"
    error_message = "eu: want a core, two edges and an encoder"
  }
  assert {
    condition     = output.costs["eu"].core == 20 && output.costs["eu"].edge == 20 && output.costs["eu"].encoder == 40 && output.costs["ap"].encoder == 0
    error_message = "costs of machines"
  }
  assert {
    condition     = output.costs["eu"].volumes == 70 && output.costs["total"].all == 2 * (20 + 20 + 40 + 70 + 4) + (20 + 20 + 70 + 3)
    error_message = "costs of volumes, and in total"
  }
}

run "region_table" {
  command = plan
  variables {
    addresses = {
      eu = { core = "192.0.2.1", edge-1 = "192.0.2.2", edge-2 = "192.0.2.3", encoder-1 = "192.0.2.4" }
      us = { core = "192.0.2.11", edge-1 = "192.0.2.12", edge-2 = "192.0.2.13", encoder-1 = "192.0.2.14" }
      ap = { core = "192.0.2.21", edge-1 = "192.0.2.22", edge-2 = "192.0.2.23" }
    }
  }
  assert {
    condition     = [for r in yamldecode(output.region_table).regions : r.name] == ["eu", "us", "ap"]
    error_message = "regions in the order of their numbers"
  }
  assert {
    condition     = yamldecode(output.region_table).regions[1].edges[1].url == "http://192.0.2.13:8082"
    error_message = "second edge of us"
  }
  assert {
    condition     = output.delegation["ap.ns.video.example.com"] == "192.0.2.21"
    error_message = "the router of ap answers for the zone"
  }
}

run "refuses_a_bad_zone" {
  command = plan
  variables {
    zone = "Video.Example.com."
  }
  expect_failures = [var.zone]
}

run "refuses_two_control_regions" {
  command = plan
  variables {
    regions = {
      eu = { number = 1, place = "a", location = "fsn1", latitude = 1, longitude = 1, rtt_ms = { us = 90 } }
      us = { number = 2, place = "b", location = "ash", latitude = 1, longitude = 1, rtt_ms = { eu = 90 } }
    }
  }
  expect_failures = [var.regions]
}

run "refuses_times_that_differ" {
  command = plan
  variables {
    regions = {
      eu = { number = 1, place = "a", location = "fsn1", latitude = 1, longitude = 1, rtt_ms = { us = 90 } }
      us = { number = 2, place = "b", location = "ash", latitude = 1, longitude = 1, control = false, rtt_ms = { eu = 80 } }
    }
  }
  expect_failures = [var.regions]
}

run "refuses_the_whole_world_as_operator" {
  command = plan
  variables {
    operators = ["0.0.0.0/0"]
  }
  expect_failures = [var.operators]
}
