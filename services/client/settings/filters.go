package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
	"hanse/services/client/filter"
)

func (c *Settings) filterRoutes(rt *core.Routes) {
	rt.Guest.Handle("POST /user/{userId}/filter", c.putFilter, httpx.MaxBody(filter.MaxSize))
	rt.Guest.Handle("GET /user/{userId}/filter/{filterId}", c.getFilter)
}

func (c *Settings) putFilter(w http.ResponseWriter, r *http.Request) error {
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	var f filter.Filter
	if err := httpx.Unmarshal(body, &f); err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return err
	}
	var content bytes.Buffer
	if err := json.Compact(&content, body); err != nil {
		return merr.NotJSON("The request body is not JSON")
	}
	if err := c.MayStore(r.Context(), user, userdb.StoredFilters, c.Quotas.Filters); err != nil {
		return err
	}
	n, err := c.Users.AddFilter(r.Context(), user, content.Bytes())
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"filter_id": strconv.FormatInt(n, 10)})
}

func (c *Settings) getFilter(w http.ResponseWriter, r *http.Request) error {
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(core.Param(r, "filterId"), 10, 64)
	if err != nil || n < 0 {
		return merr.InvalidParam("Invalid filter_id")
	}
	content, err := c.Users.Filter(r.Context(), user, n)
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.NotFound("No such filter")
	}
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, content)
}
