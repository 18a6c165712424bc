// Package service runs one Meridian component as a process: configuration from
// flags, environment (MERIDIAN_*) and a strict YAML file, logging, an admin
// listener with /livez, /readyz and /metrics, and clean shutdown.
//
// A component embeds Base in its configuration struct, gives it a Validate
// method that lists every problem, and passes a constructor to Run. The first
// SIGINT or SIGTERM cancels the context the component runs under, so that it
// refuses new work, drains and returns; a second signal ends the process at once.
package service
