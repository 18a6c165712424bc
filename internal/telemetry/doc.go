// Package telemetry sets up logging (slog), metrics (Prometheus) and the admin
// listener every component serves /livez, /readyz and /metrics on.
//
// Metric names are meridian_{component}_{what}_{unit}; each package keeps its
// own in one metrics.go.
package telemetry
