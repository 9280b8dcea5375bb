package engine

import "errors"

// ErrNotModified says that what was asked for is so already: a start of a running container, a stop of a stopped one.
var ErrNotModified = errors.New("not modified")
