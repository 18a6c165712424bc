package fleet

import "encoding/json"

// readExplanation reads what of a router's /explain tells how edges are.
func readExplanation(b []byte) (down []string, alone bool, err error) {
	var e struct {
		Regions []struct {
			Edges []struct {
				Name string
				Up   bool
			}
		}
		Alone bool
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, false, err
	}
	for _, r := range e.Regions {
		for _, x := range r.Edges {
			if !x.Up {
				down = append(down, x.Name)
			}
		}
	}
	return down, e.Alone, nil
}
