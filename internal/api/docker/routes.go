package docker

// routes is the whole API, in the order of the specification's tags.
func (s *server) routes() {
	s.handle("/", notFound)
	s.systemRoutes()
	s.containerRoutes()
	s.imageRoutes()

	s.handle("GET /volumes", s.volumeList)
	s.handle("POST /volumes/create", s.volumeCreate)
	s.handle("POST /volumes/prune", s.volumePrune)
	s.handle("GET /volumes/{name}", s.volumeInspect)
	s.handle("DELETE /volumes/{name}", s.volumeRemove)
	s.handle("PUT /volumes/{name}", noSwarm) // cluster volumes only

	s.handle("GET /networks", s.networkList)
	s.handle("GET /networks/{$}", s.networkList)
	s.handle("GET /networks/{id}", s.networkInspect)
	s.handle("POST /networks/create", missing("creating networks"))
	s.handle("POST /networks/prune", s.networkPrune)
	s.handle("POST /networks/{id}/connect", missing("connecting containers to networks"))
	s.handle("POST /networks/{id}/disconnect", missing("disconnecting containers from networks"))
	s.handle("DELETE /networks/{id}", missing("removing networks"))

	for _, tag := range []string{"swarm", "nodes", "services", "tasks", "secrets", "configs"} {
		s.handle("/"+tag, noSwarm)
		s.handle("/"+tag+"/{rest...}", noSwarm)
	}
	s.handle("GET /plugins", s.pluginList)
	s.handle("GET /plugins/{name}/json", s.pluginInspect)
	s.handle("/plugins", missing("managing plugins"))
	s.handle("/plugins/{rest...}", missing("managing plugins"))
	s.handle("GET /distribution/{name...}", missing("asking a registry about an image"))
	s.handle("POST /build", missing("building images"))
	s.handle("POST /build/prune", s.buildPrune)
	s.handle("POST /build/{rest...}", missing("building images"))
	s.handle("POST /session", missing("the session of BuildKit"))
	s.handle("POST /grpc", missing("the gRPC connection of BuildKit"))
	s.handle("POST /commit", missing("committing containers"))
	s.handle("POST /gantry/plan", s.plan) // ours
}

func (s *server) systemRoutes() {
	s.handle("GET /_ping", s.ping) // a GET pattern matches HEAD too
	s.handle("GET /version", s.versionInfo)
	s.handle("GET /info", s.info)
	s.handle("GET /events", s.events)
	s.handle("GET /system/df", missing("accounting of disk space"))
	s.handle("POST /auth", missing("checking credentials before they are used"))
}

func (s *server) containerRoutes() {
	s.handle("GET /containers/json", s.containerList)
	s.handle("POST /containers/create", s.containerCreate)
	s.handle("POST /containers/prune", s.containerPrune)
	s.handle("DELETE /containers/{id}", s.containerRemove)

	s.handle("GET /containers/{id}/json", s.containerInspect)
	s.handle("GET /containers/{id}/top", s.containerTop)
	s.handle("GET /containers/{id}/logs", s.containerLogs)
	s.handle("GET /containers/{id}/stats", s.containerStats)
	s.handle("GET /containers/{id}/changes", s.containerChanges)
	s.handle("GET /containers/{id}/export", s.containerExport)
	s.handle("GET /containers/{id}/archive", s.archiveGet) // and HEAD
	s.handle("PUT /containers/{id}/archive", s.archivePut)
	s.handle("GET /containers/{id}/attach/ws", missing("attaching over a websocket"))
	s.handle("/containers/{id}/checkpoints/{rest...}", missing("checkpointing containers"))
	s.handle("/containers/{id}/checkpoints", missing("checkpointing containers"))

	s.handle("POST /containers/{id}/start", s.containerStart)
	s.handle("POST /containers/{id}/stop", s.containerStop)
	s.handle("POST /containers/{id}/restart", s.containerRestart)
	s.handle("POST /containers/{id}/kill", s.containerKill)
	s.handle("POST /containers/{id}/pause", s.containerPause)
	s.handle("POST /containers/{id}/unpause", s.containerUnpause)
	s.handle("POST /containers/{id}/rename", s.containerRename)
	s.handle("POST /containers/{id}/update", s.containerUpdate)
	s.handle("POST /containers/{id}/resize", s.containerResize)
	s.handle("POST /containers/{id}/attach", s.containerAttach)
	s.handle("POST /containers/{id}/wait", s.containerWait)

	s.handle("POST /containers/{id}/exec", s.execCreate)
	s.handle("POST /exec/{id}/start", s.execStart)
	s.handle("POST /exec/{id}/resize", s.execResize)
	s.handle("GET /exec/{id}/json", s.execInspect)
}

func (s *server) imageRoutes() {
	s.handle("GET /images/json", s.imageList)
	s.handle("POST /images/create", s.imageCreate)
	s.handle("POST /images/load", s.imageLoad)
	s.handle("POST /images/prune", s.imagePrune)
	s.handle("GET /images/get", missing("saving images"))
	s.handle("GET /images/search", missing("searching registries"))
	// An image's name may hold slashes, so what is asked of it follows the last one.
	s.handle("GET /images/{name...}", s.imageGet)
	s.handle("POST /images/{name...}", s.imagePost)
	s.handle("DELETE /images/{name...}", s.imageRemove)
}
