package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// chapter is one step of the story. run returns what came of it, in a few words for the table.
type chapter struct {
	title  string
	expect string
	run    func(*world, context.Context) (got string, err error)
}

// Row is one line of the summary.
type Row struct {
	Step     string
	Expected string
	Got      string
	OK       bool
	Took     time.Duration
}

// Summary is what the story came to.
type Summary struct {
	Rows []Row
	Took time.Duration
}

// tell plays a chapter and writes its row.
func (w *world) tell(ctx context.Context, c chapter) error {
	fmt.Fprintf(w.out, "\n%d. %s\n", len(w.summary.Rows)+1, c.title)
	started := time.Now()
	got, err := c.run(w, ctx)
	row := Row{Step: c.title, Expected: c.expect, Got: got, OK: err == nil, Took: time.Since(started)}
	if err != nil {
		row.Got = firstLine(err.Error())
		fmt.Fprintf(w.out, "     FAIL  %v\n", err)
	}
	w.summary.Rows = append(w.summary.Rows, row)
	if err != nil {
		return fmt.Errorf("step %d, %s: %w", len(w.summary.Rows), strings.ToLower(c.title), err)
	}
	return nil
}

// say tells what happens.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.out, "   %s\n", fmt.Sprintf(format, args...))
}

// ok tells what was checked.
func (w *world) ok(format string, args ...any) {
	fmt.Fprintf(w.out, "     ok  %s\n", wrap(fmt.Sprintf(format, args...), lineWidth, "\n         "))
}

// lineWidth is where lines of the story are broken; one long word may be longer.
const lineWidth = 108

// wrap breaks text between words.
func wrap(text string, width int, newline string) string {
	var out strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			out.WriteString(newline)
			column = 0
		default:
			out.WriteByte(' ')
			column++
		}
		out.WriteString(word)
		column += len(word)
	}
	return out.String()
}

// attack tells an attack, who refused it and under which name.
func (w *world) attack(what, who, name string) {
	fmt.Fprintf(w.out, "     ok  attack: %s\n         refused by %s: %s\n", what, who, name)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// columnWidth bounds a column of the table.
const columnWidth = 44

// print writes the table.
func (s Summary) print(out io.Writer) {
	rows := [][]string{{"", "step", "expected", "got", "seconds"}}
	for i, r := range s.Rows {
		got := r.Got
		if !r.OK {
			got = "FAILED: " + got
		}
		rows = append(rows, []string{fmt.Sprint(i + 1), r.Step, r.Expected, got, fmt.Sprintf("%.1f", r.Took.Seconds())})
	}
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			r[i] = clip(cell)
			widths[i] = max(widths[i], len(r[i]))
		}
	}
	fmt.Fprintln(out)
	for i, r := range rows {
		var line strings.Builder
		for j, cell := range r {
			fmt.Fprintf(&line, "%-*s  ", widths[j], cell)
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
		if i == 0 {
			fmt.Fprintln(out, strings.Repeat("-", sum(widths)+2*len(widths)-2))
		}
	}
	fmt.Fprintf(out, "%d steps, %d failed, %.1f seconds\n", len(s.Rows), s.failed(), s.Took.Seconds())
}

func (s Summary) failed() int {
	n := 0
	for _, r := range s.Rows {
		if !r.OK {
			n++
		}
	}
	return n
}

func clip(s string) string {
	if len(s) > columnWidth {
		return s[:columnWidth-3] + "..."
	}
	return s
}

func sum(numbers []int) int {
	total := 0
	for _, n := range numbers {
		total += n
	}
	return total
}
