// SPDX-License-Identifier: BSD-3-Clause

/*
 * dma_runs gives memory to a domain that is restored, through libxenguest's own object,
 * and looks at which frames make one. Xen is played as far as that calls it.
 *
 * Linked with xg_sr_restore.o of the patched source; what it calls besides is not there,
 * and not called. See xen.sh.
 */
#include <unistd.h>

#include "xg_sr_common.h"

enum {
    RUN = 64,        /* pages that DMA may cross */
    COUNT = 4 * RUN, /* pages of the domain: from FIRST on */
    FIRST = RUN / 2,
    LOW = 1000,      /* frames below 4 GiB */
    HIGH = 2000000,  /* and above */
    MANY = 9,        /* runs, more than the domain takes */
};

static unsigned int low, high; /* runs that Xen has left */
static xen_pfn_t next_page;    /* and single frames, every other one */
static xen_pfn_t p2m[FIRST + COUNT];
static xen_pfn_t m2p[HIGH + MANY * RUN]; /* as Xen has it */

int xc_domain_populate_physmap(xc_interface *xch, uint32_t domid, unsigned long n,
                               unsigned int order, unsigned int flags, xen_pfn_t *frame)
{
    bool below = flags == XENMEMF_address_bits(32);
    unsigned int *left = below ? &low : &high;

    if ( n != 1 || order != 6 || *frame % RUN || (flags && !below) )
        abort();
    if ( !*left )
        return 0;
    --*left;
    for ( unsigned int i = 0; i < RUN; ++i )
        m2p[(below ? LOW : HIGH) + *left * RUN + i] = *frame + i;
    *frame = (below ? LOW : HIGH) + *left * RUN;
    return 1;
}

int xc_domain_populate_physmap_exact(xc_interface *xch, uint32_t domid,
                                     unsigned long n, unsigned int order,
                                     unsigned int flags, xen_pfn_t *frames)
{
    if ( order || flags )
        abort();
    for ( unsigned long i = 0; i < n; ++i )
    {
        m2p[next_page += 2] = frames[i];
        frames[i] = next_page;
    }
    return 0;
}

void xc_report_error(xc_interface *xch, int code, const char *format, ...) {}
const char *xc_strerror(xc_interface *xch, int code) { return ""; }

static void set_gfn(struct xc_sr_context *ctx, xen_pfn_t pfn, xen_pfn_t mfn)
{
    p2m[pfn] = mfn;
}

/* runs tells which of the domain's runs are one, as letters: below 4 GiB, above, or
 * neither; or that a page has no frame, or one that Xen has given to another. */
static const char *runs(uint32_t flags, bool hvm, bool scrambled, unsigned int have_low, unsigned int have_high)
{
    static struct xc_interface_core xch;
    static char out[COUNT / RUN];
    struct xc_sr_context ctx = { .xch = &xch, .restore.ops.set_gfn = set_gfn };
    xen_pfn_t pfns[COUNT];
    unsigned int i, n = 0;

    ctx.dominfo.hvm = hvm;
    ctx.dominfo.arch_config.misc_flags = flags;
    ctx.restore.max_populated_pfn = 1023;
    ctx.restore.populated_pfns = bitmap_alloc(1024);
    low = have_low;
    high = have_high;
    next_page = 1;
    memset(p2m, 0, sizeof(p2m));
    for ( i = 0; i < COUNT; ++i )
        pfns[i] = FIRST + i;
    for ( i = FIRST + 1; scrambled && i + 2 < COUNT; i += RUN )
    {
        pfns[i] += 1;
        pfns[i + 1] -= 1;
    }
    if ( populate_pfns(&ctx, COUNT, pfns, NULL) )
        return "failed";
    for ( i = 0; i < COUNT; ++i )
        if ( !p2m[FIRST + i] || m2p[p2m[FIRST + i]] != FIRST + i )
            return "a page has no frame of its own";
    for ( xen_pfn_t first = RUN; first + RUN <= FIRST + COUNT; first += RUN )
    {
        for ( i = 0; i < RUN && p2m[first + i] == p2m[first] + i; ++i )
            ;
        out[n++] = i < RUN ? '-' : p2m[first] < HIGH ? 'b' : 'a';
    }
    out[n] = 0;

    return out;
}

static int failures;

static void want(const char *is, const char *what, const char *why)
{
    bool ok = !strcmp(is, what);

    printf("  %s: %s, %s\n", ok ? "ok" : "FAILED", is, why);
    failures += !ok;
}

int main(void)
{
    const uint32_t in = XEN_X86_MIGRATE_DEVICES;

    want(runs(in, false, false, MANY, MANY), "bbb", "a PV domain that opted in has its runs below 4 GiB");
    want(runs(in, false, false, 1, MANY), "baa", "above, if there is none");
    want(runs(in, false, false, 1, 1), "ba-", "and page by page, if there is none at all");
    want(runs(in, false, true, MANY, MANY), "---", "pages that a page table names in another order are none");
    want(runs(0, false, false, MANY, MANY), "---", "one that did not opt in is populated as before");
    want(runs(in, true, false, MANY, MANY), "---", "and so is an HVM domain");

    return failures != 0;
}
