package nft

import "github.com/cordon-ota/cordon/server/segment"

// MarkRoundTrip reads a value as the kernel may hold it and writes it again.
func MarkRoundTrip(b []byte) ([]byte, error) {
	m, err := markOf(b)
	if err != nil {
		return nil, err
	}
	v := m.value()
	return v[:], nil
}

// AfterRead is called by a test between the reading and the writing of an order, as another process would.
func (p *Point) AfterRead(f func()) { p.afterRead = f }

// Comments are the comments of all rules by chain, in order.
func (p *Point) Comments() map[string][]string {
	all := map[string][]string{}
	for _, c := range p.rules.chains {
		for _, r := range c.rules {
			all[c.Name] = append(all[c.Name], r.comment)
		}
	}
	return all
}

var _ segment.Point = (*Point)(nil)
