package device

// AgentArguments are those of the agent on every machine.
func AgentArguments() []string { return agentArguments() }
