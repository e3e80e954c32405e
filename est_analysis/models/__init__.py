"""Our models: a stack whose forward takes the sampled subnetwork as an argument, and its families."""
