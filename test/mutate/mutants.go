package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"sort"
	"strings"
)

// mutant is one change of a source file.
type mutant struct {
	file       string // its absolute path
	line       int    // in which the change begins
	begin, end int    // the bytes that are replaced
	text       string // what stands there instead
	kind       string
}

// mutantsOf returns every mutant of a file, in the order of the source.
func mutantsOf(file string, source []byte) ([]mutant, error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	m := &mutator{set: set, file: file, source: source}
	for _, d := range tree.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
			continue
		}
		ast.Inspect(d, m.visit)
	}
	sort.SliceStable(m.all, func(i, j int) bool { return m.all[i].begin < m.all[j].begin })
	return m.all, nil
}

type mutator struct {
	set    *token.FileSet
	file   string
	source []byte
	all    []mutant
	within []ast.Node // the path to the node that is visited
}

// negated are the operators that compare, each with its opposite.
var negated = map[token.Token]string{
	token.EQL: "!=", token.NEQ: "==", token.LSS: ">=", token.GEQ: "<", token.GTR: "<=", token.LEQ: ">",
}

func (m *mutator) visit(n ast.Node) bool {
	if n == nil {
		m.within = m.within[:len(m.within)-1]
		return true
	}
	switch n := n.(type) {
	case *ast.Field: // a tag is no constant
		if n.Tag != nil {
			m.within = append(m.within, n)
			ast.Inspect(n.Type, m.visit)
			m.within = m.within[:len(m.within)-1]
			return false
		}
	case *ast.IfStmt:
		m.negate(n.Cond)
	case *ast.ForStmt:
		m.negate(n.Cond)
	case *ast.SwitchStmt:
		if n.Tag == nil {
			for _, c := range n.Body.List {
				for _, e := range c.(*ast.CaseClause).List {
					m.negate(e)
				}
			}
		}
	case *ast.BinaryExpr:
		switch {
		case n.Op == token.LAND:
			m.replace(n.OpPos, len("&&"), "||", "&& to ||")
		case n.Op == token.LOR:
			m.replace(n.OpPos, len("||"), "&&", "|| to &&")
		case negated[n.Op] != "":
			m.replace(n.OpPos, len(n.Op.String()), negated[n.Op], "negated")
		}
	case *ast.BasicLit:
		if n.Kind == token.INT && n.Value != "0" || n.Kind == token.FLOAT {
			m.replace(n.Pos(), len(n.Value), "("+n.Value+" / 2)", "halved")
			m.replace(n.Pos(), len(n.Value), "("+n.Value+" * 2)", "doubled")
		}
	case *ast.ReturnStmt:
		if len(n.Results) > 0 && m.returnsError() {
			last := n.Results[len(n.Results)-1]
			if id, ok := last.(*ast.Ident); !ok || id.Name != "nil" {
				if _, passed := last.(*ast.CallExpr); !passed || len(n.Results) == m.results() {
					m.replace(last.Pos(), int(last.End()-last.Pos()), "nil", "error to nil")
				}
			}
		}
	case *ast.ExprStmt, *ast.IncDecStmt, *ast.SendStmt, *ast.DeferStmt, *ast.GoStmt:
		m.drop(n)
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			m.drop(n)
		}
	}
	m.within = append(m.within, n)
	return true
}

// negate puts a not before a condition that is no comparison, which visit turns round by itself.
func (m *mutator) negate(cond ast.Expr) {
	if cond == nil {
		return
	}
	if b, ok := cond.(*ast.BinaryExpr); ok && negated[b.Op] != "" {
		return
	}
	text := m.source[m.offset(cond.Pos()):m.offset(cond.End())]
	m.replace(cond.Pos(), len(text), "!("+string(text)+")", "negated")
}

// drop takes a statement out of a block; the lines stay, so that what the compiler and the tests
// say has the right number.
func (m *mutator) drop(n ast.Node) {
	switch m.within[len(m.within)-1].(type) {
	case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
	default:
		return // the post statement of a loop, the first of an if
	}
	if c, ok := m.within[len(m.within)-1].(*ast.CommClause); ok && c.Comm == n {
		return
	}
	text := string(m.source[m.offset(n.Pos()):m.offset(n.End())])
	m.replace(n.Pos(), len(text), strings.Repeat("\n", strings.Count(text, "\n")), "dropped")
}

// signature is that of the function that is being visited.
func (m *mutator) signature() *ast.FieldList {
	for i := len(m.within) - 1; i >= 0; i-- {
		switch f := m.within[i].(type) {
		case *ast.FuncLit:
			return f.Type.Results
		case *ast.FuncDecl:
			return f.Type.Results
		}
	}
	return nil
}

func (m *mutator) results() int { return m.signature().NumFields() }

func (m *mutator) returnsError() bool {
	s := m.signature()
	if s.NumFields() == 0 {
		return false
	}
	id, ok := s.List[len(s.List)-1].Type.(*ast.Ident)
	return ok && id.Name == "error"
}

func (m *mutator) offset(p token.Pos) int { return m.set.Position(p).Offset }

func (m *mutator) replace(at token.Pos, length int, text, kind string) {
	p := m.set.Position(at)
	m.all = append(m.all, mutant{m.file, p.Line, p.Offset, p.Offset + length, text, kind})
}

// apply returns the source with the change made.
func (m mutant) apply(source []byte) []byte {
	return fmt.Appendf(nil, "%s%s%s", source[:m.begin], m.text, source[m.end:])
}

// diff is the changed line before and after, without what is around it.
func (m mutant) diff(source []byte) string {
	line := func(s []byte, begin, end int) string {
		for begin > 0 && s[begin-1] != '\n' {
			begin--
		}
		for end < len(s) && s[end] != '\n' {
			end++
		}
		return strings.Join(strings.Fields(string(s[begin:end])), " ")
	}
	after := m.apply(source)
	return fmt.Sprintf("%s  →  %s", line(source, m.begin, m.end), line(after, m.begin, m.begin+len(m.text)))
}
