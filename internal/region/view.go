package region

import "fmt"

// View is the flags of a command that works on all regions, seen from one.
type View struct {
	Regions string `help:"Region table (YAML)." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	Region  string `help:"Region to work from; default: the table's first." env:"MERIDIAN_REGION"`
}

// Load reads the table, and names its first region where no other is.
func (v *View) Load() (*Table, error) {
	t, err := Load(v.Regions)
	if err != nil {
		return nil, err
	}
	if v.Region == "" {
		v.Region = t.Regions[0].Name
	}
	return t, t.Check(v.Regions, v.Region)
}

// Check returns an error if the table, which is from file, has no region of the name.
func (t *Table) Check(file, name string) error {
	if _, ok := t.Get(name); !ok {
		return fmt.Errorf("--region %q: not in %s (has %v)", name, file, t.Names())
	}
	return nil
}
