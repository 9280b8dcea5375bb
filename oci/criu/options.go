package criu

// Options are those of a dump or a restore; names are those of criu's rpc.proto and of its manual page.
type Options struct {
	ImagesDir, WorkDir int // descriptors; WorkDir 0: the images'
	Pid                int
	LogFile            string
	Root, ParentImage  string
	FreezeCgroup       string
	ConfigFile         string
	LSMProfile         string
	LSMMountContext    string
	PageServer         PageServer
	CgroupMode         CgroupMode
	EmptyNS            uint32
	StatusFD           int // 0: none

	LeaveRunning, ExtUnixSK, TCPEstablished, TCPSkipInFlight, ShellJob, FileLocks bool
	TrackMem, AutoDedup, LinkRemap, LazyPages, EvasiveDevices, RestoreSibling     bool

	ExtMounts   []Pair // what is mounted from outside: on a dump mount point and name, on a restore name and source
	External    []string
	InheritFDs  []InheritFD
	JoinNS      []Pair // kind and path of a namespace
	CgroupRoots []Pair // controller and path
}

// Pair is a key and its value.
type Pair struct{ Key, Value string }

// InheritFD gives a descriptor of the criu process (Files of a Request begin at 4) to who has the key.
type InheritFD struct {
	Key string
	FD  int
}

// PageServer takes pages over the network.
type PageServer struct {
	Address string
	Port    int
}

// CgroupMode is how a restore treats cgroups.
type CgroupMode int

// Modes by their names on the command line.
var modes = map[string]CgroupMode{"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}

// ParseCgroupMode reads a mode: soft, full, strict, ignore; "" is criu's default.
func ParseCgroupMode(name string) (CgroupMode, bool) {
	m, known := modes[name]
	return m, known
}

func (o *Options) encode() []byte {
	m := &message{}
	m.number(1, int64(o.ImagesDir))
	if o.Pid != 0 {
		m.number(2, int64(o.Pid))
	}
	const logLevel = 4 // debug: the log is a file, and all that is left of a failure
	m.number(9, logLevel)
	m.text(10, o.LogFile)
	m.text(13, o.Root)
	m.text(14, o.ParentImage)
	for field, value := range map[int]bool{
		3: o.LeaveRunning, 4: o.ExtUnixSK, 5: o.TCPEstablished, 6: o.EvasiveDevices, 7: o.ShellJob, 8: o.FileLocks,
		12: true, // tell us of every stage
		15: o.TrackMem, 16: o.AutoDedup, 18: o.LinkRemap, 24: true, 26: o.RestoreSibling, 46: o.TCPSkipInFlight, 48: o.LazyPages,
		50: true, // hand over the masters of terminals
	} {
		m.flag(field, value)
	}
	if o.PageServer.Address != "" {
		server := &message{}
		server.text(1, o.PageServer.Address)
		server.number(2, int64(o.PageServer.Port))
		m.bytes(11, *server)
	}
	if o.WorkDir != 0 {
		m.number(17, int64(o.WorkDir))
	}
	m.pairs(23, o.ExtMounts)
	m.pairs(25, o.CgroupRoots)
	for _, i := range o.InheritFDs {
		inherit := &message{}
		inherit.text(1, i.Key)
		inherit.number(2, int64(i.FD))
		m.bytes(27, *inherit)
	}
	m.number(34, int64(o.CgroupMode))
	for _, e := range o.External {
		m.text(37, e)
	}
	m.number(38, int64(o.EmptyNS))
	m.pairs(39, o.JoinNS)
	m.text(44, o.FreezeCgroup)
	if o.StatusFD != 0 {
		m.number(49, int64(o.StatusFD))
	}
	m.text(51, o.ConfigFile)
	m.text(53, o.LSMProfile)
	m.text(63, o.LSMMountContext)
	return *m
}

func (m *message) pairs(field int, list []Pair) {
	for _, p := range list {
		pair := &message{}
		pair.bytes(1, []byte(p.Key))
		pair.bytes(2, []byte(p.Value))
		m.bytes(field, *pair)
	}
}
