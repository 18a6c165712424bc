// Package deploy prepares a platform whose regions run on machines or in
// containers of their own: `meridian provision` makes keys, passwords,
// certificates and the stores' configuration from the region table.
//
// Output is a directory per region with one directory per component, which holds
// everything that component may know and nothing else; it is mounted or copied
// whole. Running it again keeps every secret and replaces what the region table
// or the program's version changed. The private halves that no region needs
// (the certificate authority's, the root key) stay in the directory `keys`.
//
// The stores' settings are those `meridian up` runs with (internal/platform), plus
// TLS, because here they talk over networks that others may listen to.
package deploy
