// Package terraform holds the checks of the Terraform files beside it that need
// neither Terraform nor a provider.
package terraform
