package engine

import (
	"strings"

	"github.com/moby/moby/api/types/mount"
)

// volumesFrom are the mounts of other containers that --volumes-from asks for: CONTAINER[:MODE]. A later one wins over
// an earlier one. A tmpfs cannot be shared. The mode ro makes them read-only; what is read-only there stays so.
func (e *Engine) volumesFrom(list []string) ([]mountPoint, error) {
	byDestination := map[string]int{}
	var points []mountPoint
	for _, text := range list {
		name, mode, _ := strings.Cut(text, ":")
		if name == "" {
			return nil, refuse("volumes-from specification cannot be an empty string")
		}
		readOnly := false
		for option := range strings.SplitSeq(mode, ",") {
			switch option {
			case "ro":
				readOnly = true
			case "", "rw", "z", "Z": // labels mean something only where SELinux runs
			default:
				return nil, refuse("invalid mode: %s", mode)
			}
		}
		c, err := e.lookup(name)
		if err != nil {
			return nil, err
		}
		rec := c.view().record
		theirs, err := rec.mountPoints()
		if err != nil {
			return nil, err
		}
		for _, m := range theirs {
			if m.Kind == mount.TypeTmpfs {
				continue
			}
			if m.Kind == mount.TypeVolume {
				use := rec.Volumes[m.Destination]
				m.Source, m.Anonymous = use.Name, use.Anonymous
			}
			m.Mode = ""
			m.Borrowed, m.NoCopy, m.ReadOnly = true, true, m.ReadOnly || readOnly
			if i, taken := byDestination[m.Destination]; taken {
				points[i] = m
				continue
			}
			byDestination[m.Destination] = len(points)
			points = append(points, m)
		}
	}
	return points, nil
}
