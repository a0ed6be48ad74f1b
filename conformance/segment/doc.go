// Package segment shows with real packets that a device which fails attestation is cut off by the network, and comes back.
//
// Its tests put a device, its neighbour and the server into network namespaces around a gateway, run cordond and the agents
// as processes, and let the agent reach the server only through that gateway. One road goes over nftables on the gateway,
// one over RADIUS and FreeRADIUS, which really moves a switch port. Judges are packets that arrive or not, nft(8), and the
// times that the server reports; each test prints a table of them. No test here waits for a clock to decide.
//
// Nobody trusts this package.
package segment
