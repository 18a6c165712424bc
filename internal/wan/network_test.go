package wan

import (
	"net/netip"
)

var hostPrefix = netip.MustParsePrefix("198.19.0.0/16")
