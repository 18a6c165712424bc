package geo

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// developmentCSV places address ranges of one machine around the world: a
// client that binds a source address in one is "from" there. Addresses the
// platform itself uses (127.0.0.1, 127.1.0.1, 198.18.1.1) stay unknown.
//
//go:embed development.csv
var developmentCSV string

// developmentEpoch fixes the build time, so that equal input gives equal bytes.
const developmentEpoch = 1767225600

// BuildDevelopment writes the geo database of a platform on one machine to w.
func BuildDevelopment(w io.Writer) error { return build(w, developmentCSV) }

func build(w io.Writer, table string) error {
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		BuildEpoch: developmentEpoch, DatabaseType: "Meridian-Development-City", IPVersion: 6,
		Description: map[string]string{"en": "Meridian development locations"}, Languages: []string{"en"},
		IncludeReservedNetworks: true, RecordSize: 24,
	})
	if err != nil {
		return fmt.Errorf("geo database: %w", err)
	}
	r := csv.NewReader(strings.NewReader(table))
	r.FieldsPerRecord = 6
	rows, err := r.ReadAll()
	if err != nil {
		return fmt.Errorf("geo table: %w", err)
	}
	for i, row := range rows[min(1, len(rows)):] {
		at := func(err error) error { return fmt.Errorf("geo table row %d (%s): %w", i+2, row[0], err) }
		_, network, err := net.ParseCIDR(row[0])
		if err != nil {
			return at(err)
		}
		lat, err := strconv.ParseFloat(row[4], 64)
		if err != nil {
			return at(err)
		}
		lon, err := strconv.ParseFloat(row[5], 64)
		if err != nil {
			return at(err)
		}
		name := func(s string) mmdbtype.Map { return mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String(s)}} }
		err = tree.Insert(network, mmdbtype.Map{
			"city":      name(row[3]),
			"continent": mmdbtype.Map{"code": mmdbtype.String(row[1])},
			"country":   mmdbtype.Map{"iso_code": mmdbtype.String(row[2])},
			"location": mmdbtype.Map{
				"latitude": mmdbtype.Float64(lat), "longitude": mmdbtype.Float64(lon), "accuracy_radius": mmdbtype.Uint16(10),
			},
		})
		if err != nil {
			return at(err)
		}
	}
	if _, err := tree.WriteTo(w); err != nil {
		return fmt.Errorf("geo database: %w", err)
	}
	return nil
}
