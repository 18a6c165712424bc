package cli

// version is stamped by the linker (-X) where a release or an image is built.
var version = "dev"
