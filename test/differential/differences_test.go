package differential

// differences are all known ones between dockerd 20.10 and Gantry, each with its reason.
var differences = []difference{}
