package iceberg

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// A client chooses a branch with the name of its warehouse, which the answer to
// /v1/config makes the prefix of all paths, with a header, or with the name of the
// table, which counts most.
const branchHeader = "X-Thermocline-Branch"

var pathParams = strings.NewReplacer("{namespace}", ":namespace", "{table}", ":table")

// branchOf is the branch that a request is for, but for a table's own name.
func branchOf(c *gin.Context) (string, error) {
	branch := c.Param("prefix")
	if b := c.GetHeader(branchHeader); b != "" {
		branch = b
	}
	if branch == "" {
		branch = MainBranch
	}
	return branch, catalog.ValidateName("branch name", branch)
}

// separator is between the levels of a namespace in a path. There is one level
// only; more can be named, and do not exist.
const separator = "\x1f"

// namespaceOf is the namespace in the path.
func namespaceOf(c *gin.Context) (string, error) {
	levels := strings.Split(c.Param("namespace"), separator)
	about(c, strings.Join(levels, "."))
	return checkNamespace(levels)
}

func checkNamespace(levels []string) (string, error) {
	if len(levels) == 0 {
		return "", fmt.Errorf("the namespace is empty: %w", record.ErrInvalid)
	}
	if len(levels) > 1 {
		return "", &MissingNamespaceError{strings.Join(levels, ".")} // there is one level
	}
	return levels[0], catalog.ValidateName("namespace", levels[0])
}

// tableOf is the table in the path.
func tableOf(c *gin.Context) (Ref, error) {
	namespace, err := namespaceOf(c)
	if missing := new(MissingNamespaceError); errors.As(err, &missing) {
		// Clients look there for tables that engines make up, like quakes.files, and would
		// like to hear of the table that it is not there.
		about(c, missing.Name+"."+c.Param("table"))
		return Ref{}, record.ErrNotFound
	}
	if err != nil {
		return Ref{}, err
	}
	branch, err := branchOf(c)
	if err != nil {
		return Ref{}, err
	}
	return newRef(c, namespace, c.Param("table"), branch)
}

// newRef reads a table's name, which may say its branch: quakes@exp.
func newRef(c *gin.Context, namespace, name, branch string) (Ref, error) {
	about(c, namespace+"."+name)
	name, own, named := strings.Cut(name, "@")
	if named {
		branch = own
	}
	r := Ref{namespace, name, branch}
	if err := catalog.ValidateName("table name", name); err != nil {
		return r, err
	}
	return r, catalog.ValidateName("branch name", branch)
}

// identifier is a table's name in a body.
type identifier struct {
	Namespace []string `json:"namespace"`
	Name      string   `json:"name"`
}

func (i identifier) ref(c *gin.Context) (Ref, error) {
	namespace, err := checkNamespace(i.Namespace)
	if err != nil {
		return Ref{}, err
	}
	branch, err := branchOf(c)
	if err != nil {
		return Ref{}, err
	}
	return newRef(c, namespace, i.Name, branch)
}
