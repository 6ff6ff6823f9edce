package page

import "github.com/gatehouse-ws/gatehouse/cmd/internal/shell"

// commandViews quotes commands and leaves out those that can't be pasted.
func commandViews(commands []Command) []commandView {
	views := make([]commandView, 0, len(commands))
	for _, c := range commands {
		if line, ok := shell.Line(c.Args); ok {
			views = append(views, commandView{c.Title, line})
		}
	}
	return views
}
