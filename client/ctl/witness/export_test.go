package witness

// EndAfter makes the witness stop, as if its process ended there, behind a step of writing: signed, written, renamed,
// durable. Nothing that comes later in that request happens.
func (w *Witness) EndAfter(end func(step string) error) { w.after = end }
