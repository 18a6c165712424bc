// Package terraform holds the checks of the Terraform files beside it: what needs
// neither OpenTofu nor a provider, what OpenTofu alone can say, and machines in
// namespaces that boot from the cloud-init it renders.
package terraform
