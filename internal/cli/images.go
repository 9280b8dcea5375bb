package cli

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/image"
	"github.com/spf13/cobra"
)

type imagesOptions struct {
	all, quiet, noTrunc, digests bool
	filters                      []string
	format                       string
}

func newImages(a *app) *cobra.Command {
	var o imagesOptions
	cmd := &cobra.Command{
		Use: "images [OPTIONS] [REPOSITORY[:TAG]]", Short: "List images", Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.filters = append(o.filters, "reference="+args[0])
			}
			return a.images(cmd.Context(), o)
		},
	}
	set := cmd.Flags()
	set.BoolVarP(&o.all, "all", "a", false, "Show all images (default hides intermediate and dangling images)")
	set.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	set.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	set.BoolVar(&o.digests, "digests", false, "Show digests")
	set.StringArrayVarP(&o.filters, "filter", "f", nil, "Filter output based on conditions provided")
	set.StringVar(&o.format, "format", "", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")
	return cmd
}

func (a *app) images(ctx context.Context, o imagesOptions) error {
	filters, err := parseFilters(o.filters)
	if err != nil {
		return err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	found, err := api.ImageList(ctx, o.all, filters)
	if err != nil {
		return err
	}
	slices.SortStableFunc(found, func(x, y image.Summary) int { return cmp.Compare(y.Created, x.Created) })
	var records []record
	for i := range found {
		records = append(records, imageRecords(&found[i], o)...)
	}
	columns := `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	if o.digests {
		columns = `{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	}
	return a.list(listing{headings: imageHeadings(), table: columns, id: "ID"}, o.format, o.quiet, records)
}

func imageHeadings() headings {
	return headings{
		"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
		"CreatedAt": "CREATED AT", "Size": "SIZE", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
		"VirtualSize": "SIZE", "Containers": "CONTAINERS", "Labels": "LABELS",
	}
}

// none stands for a missing tag or digest.
const none = "<none>"

// imageRecords makes a line for each tag of an image, or one for an image that has none.
func imageRecords(s *image.Summary, o imagesOptions) []record {
	type name struct{ repository, tag, digest string }
	var names []name
	digests := map[string]string{}
	for _, ref := range s.RepoDigests {
		if name, err := parseImageName(ref); err == nil && name.digest != "" {
			digests[name.familiar()] = name.digest
		}
	}
	for _, ref := range s.RepoTags {
		if parsed, err := parseImageName(ref); err == nil && parsed.tag != "" {
			familiar := parsed.familiar()
			names = append(names, name{familiar, parsed.tag, cmp.Or(digests[familiar], none)})
		}
	}
	if len(names) == 0 {
		for repository, digest := range digests {
			names = append(names, name{repository, none, digest})
		}
	}
	if len(names) == 0 {
		names = []name{{none, none, none}}
	}
	records := make([]record, len(names))
	for i, n := range names {
		records[i] = imageRecord(s, o.noTrunc)
		records[i]["Repository"], records[i]["Tag"], records[i]["Digest"] = n.repository, n.tag, n.digest
	}
	return records
}

func imageRecord(s *image.Summary, full bool) record {
	created := time.Unix(s.Created, 0)
	r := record{
		labelsKey: s.Labels, "ID": s.ID, "CreatedAt": created.String(), "CreatedSince": ago(created), "Size": humanSize(s.Size),
		"VirtualSize": humanSize(s.Size), "SharedSize": "N/A", "UniqueSize": "N/A", "Containers": "N/A", "Labels": labelText(s.Labels),
	}
	if s.SharedSize >= 0 {
		r["SharedSize"], r["UniqueSize"] = humanSize(s.SharedSize), humanSize(s.Size-s.SharedSize)
	}
	if s.Containers >= 0 {
		r["Containers"] = strconv.FormatInt(s.Containers, 10)
	}
	if !full {
		r["ID"] = shortID(s.ID)
	}
	return r
}
