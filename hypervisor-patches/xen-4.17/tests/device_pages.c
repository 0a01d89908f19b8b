// SPDX-License-Identifier: BSD-3-Clause

/*
 * device_pages sends one page table of a PV guest, which maps memory and a device,
 * through libxenguest's own objects: made fit for the stream by the sender, and fit
 * for the other host by the receiver. Xen is played as far as that calls it.
 *
 * Linked with xg_sr_{save,restore,common}_x86_pv.o of the patched source; what they
 * call besides is not there, and not called. See xen.sh.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "xg_sr_common_x86_pv.h"

enum {
    PFN = 3,               /* of the memory that the table maps */
    MFN_A = 100, MFN_B = 40, /* where it is on each host */
    BAR = 200,             /* the device's frame on the first host */
    DEAD = 60,             /* the frame that the second host's Xen gives */
    MAX_PFN = 7, MAX_MFN = 255,
};
#define FLAGS 0x8000000000000063ull /* present, writable, no-execute */
#define ENTRY(frame) (FLAGS | (uint64_t)(frame) << 12)
/* of a device: not cached */
#define DEVICE_ENTRY(frame) (ENTRY(frame) | _PAGE_PCD | _PAGE_PWT)

static uint8_t *dead; /* the page at DEAD */
static unsigned int populated;

int xc_domain_populate_physmap_exact(xc_interface *xch, uint32_t domid,
                                     unsigned long n, unsigned int order,
                                     unsigned int flags, xen_pfn_t *frame)
{
    if ( *frame <= MAX_PFN )
        abort(); /* it must not replace memory of the guest */
    *frame = DEAD;
    ++populated;
    return 0;
}

void *xenforeignmemory_map(xenforeignmemory_handle *h, uint32_t dom, int prot,
                           size_t n, const xen_pfn_t mfns[], int errors[])
{
    if ( n != 1 || mfns[0] != DEAD )
        abort();
    return dead;
}

int xenforeignmemory_unmap(xenforeignmemory_handle *h, void *at, size_t n)
{
    return 0;
}

void xc_report_error(xc_interface *xch, int code, const char *format, ...) {}
void xc_report(xc_interface *xch, xentoollog_logger *log, xentoollog_level level,
               int code, const char *format, ...) {}
const char *xc_strerror(xc_interface *xch, int code) { return ""; }

/* host makes the context of a host where the guest's page PFN is frame mfn. */
static void host(struct xc_sr_context *ctx, xen_pfn_t mfn)
{
    static struct xc_interface_core xch;

    *ctx = (struct xc_sr_context){ .xch = &xch };
    ctx->x86.pv.width = 8;
    ctx->x86.pv.levels = 4;
    ctx->x86.pv.max_pfn = MAX_PFN;
    ctx->x86.pv.max_mfn = MAX_MFN;
    ctx->x86.pv.m2p = malloc((MAX_MFN + 1) * sizeof(xen_pfn_t));
    ctx->x86.pv.p2m = malloc((MAX_PFN + 1) * sizeof(uint64_t));
    memset(ctx->x86.pv.m2p, 0xff, (MAX_MFN + 1) * sizeof(xen_pfn_t));
    memset(ctx->x86.pv.p2m, 0xff, (MAX_PFN + 1) * sizeof(uint64_t));
    ctx->x86.pv.m2p[mfn] = PFN;
    ((uint64_t *)ctx->x86.pv.p2m)[PFN] = mfn;
}

static int failures;

static void want(bool is, const char *what)
{
    printf("  %s: %s\n", is ? "ok" : "FAILED", what);
    failures += !is;
}

/* send makes table, of level type, fit for the stream, and returns it, or NULL if it
 * is put off. */
static uint64_t *send(struct xc_sr_context *ctx, xen_pfn_t type, uint64_t *table)
{
    void *page = table;

    if ( !save_ops_x86_pv.normalise_page(ctx, type, &page) )
        return page;
    if ( errno != EAGAIN )
        abort();
    return NULL;
}

int main(void)
{
    uint64_t table[512] = { [1] = ENTRY(MFN_A), [2] = DEVICE_ENTRY(BAR), [3] = DEVICE_ENTRY(BAR + 1) };
    const xen_pfn_t l1 = XEN_DOMCTL_PFINFO_L1TAB, l2 = XEN_DOMCTL_PFINFO_L2TAB;
    struct xc_sr_context a, b;
    uint64_t *sent;

    dead = calloc(1, PAGE_SIZE);
    host(&a, MFN_A);
    host(&b, MFN_B);

    a.save.devices = true;
    want(!send(&a, l1, table), "the table of a running domain is put off");
    a.dominfo.shutdown = 1;
    want(!send(&a, l2, table), "so is one of another level");
    a.save.devices = false;
    want(!send(&a, l1, table), "and that of a domain that did not opt in");
    a.save.devices = true;
    sent = send(&a, l1, table);
    want(sent, "that of a suspended domain which did is sent");
    if ( !sent )
        return 1;
    want(sent[0] == 0 && sent[1] == ENTRY(PFN), "with its memory");
    want(sent[2] == DEVICE_ENTRY(0xffffffffff) && sent[3] == sent[2], "and without the device");

    want(!restore_ops_x86_pv.localise_page(&b, l1, sent), "the receiver takes it");
    want(sent[0] == 0 && sent[1] == ENTRY(MFN_B), "memory is where it is there");
    want(sent[2] == ENTRY(DEAD) && sent[3] == sent[2] && populated == 1,
         "all of the device is one page of the domain's own, which is cached");
    want(dead[0] == 0xff && dead[PAGE_SIZE - 1] == 0xff, "full of ones");

    return failures != 0;
}
