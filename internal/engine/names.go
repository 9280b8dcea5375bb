package engine

import (
	"math/rand/v2"
	"regexp"
)

var containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// What a port is made of: a made-up name says how it is and what it is.
var (
	nameMoods = []string{
		"able", "agile", "bold", "brave", "bright", "brisk", "busy", "calm", "clever", "cosy", "crisp", "daring", "eager",
		"early", "fair", "fast", "fine", "firm", "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand", "handy",
		"happy", "hardy", "jolly", "keen", "kind", "lively", "lofty", "loyal", "lucid", "lucky", "mellow", "merry", "mighty",
		"modest", "neat", "nimble", "noble", "patient", "plucky", "proud", "quick", "quiet", "ready", "rosy", "sharp",
		"shiny", "silent", "smart", "smooth", "snug", "solid", "sound", "steady", "stout", "sturdy", "sunny", "swift",
		"tidy", "trusty", "upbeat", "vivid", "warm", "wise", "witty", "young", "zesty",
	}
	nameThings = []string{
		"anchor", "barge", "beacon", "berth", "boom", "bow", "breeze", "bridge", "buoy", "cable", "cargo", "chart", "clipper",
		"compass", "coral", "crane", "crate", "cutter", "deck", "delta", "derrick", "dinghy", "dock", "dolphin", "ferry",
		"fender", "fjord", "freighter", "galley", "gull", "harbor", "hatch", "hawser", "heron", "hoist", "hold", "hook",
		"hull", "island", "jetty", "keel", "ketch", "lagoon", "lantern", "launch", "ledger", "lighter", "lock", "mast",
		"mooring", "otter", "pelican", "pier", "pilot", "port", "pulley", "quay", "rigging", "rudder", "sail", "schooner",
		"seal", "sextant", "skiff", "sling", "sloop", "spar", "starboard", "stern", "tackle", "tern", "tide", "tiller",
		"trawler", "tug", "vessel", "wharf", "winch", "windlass", "yawl",
	}
)

// inventName makes up a name; the caller checks that it is free.
func inventName() string {
	return nameMoods[rand.IntN(len(nameMoods))] + "_" + nameThings[rand.IntN(len(nameThings))]
}
