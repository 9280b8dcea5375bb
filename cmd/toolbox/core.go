//go:build toolbox_core

package main

func larger() []applet { return nil }
