// SPDX-License-Identifier: BSD-3-Clause

/*
 * device_writes runs the sender of a live migration, libxenguest's own objects, on a
 * domain of some pages, to which a CPU and a device write while it is sent. Only what
 * the CPU writes is in the dirty log. A receiver reads the stream; what it has at the
 * end must be what the domain has. Everything around the sender is played here: Xen,
 * its bitmap, foreign mappings, the pipe.
 *
 * Linked with xg_sr_save.o and xg_sr_common.o of the patched source; see xen.sh.
 */
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xg_sr_common.h"

enum { PAGES = 3000 }; /* more than two batches */

/* The pages that something is written to, in several batches. */
enum { CPU = 5, DEVICE = 1500, BOTH = 2049, WHILE_SENT = 7, THERE_AND_BACK = 9 };

static int memory = -1; /* of the domain: a file, so that mappings see writes */
static uint8_t *domain, received[PAGES][PAGE_SIZE];
static bool suspended;
static unsigned int cleans, sent_pages;

static uint8_t *stream;
static size_t streamed;

static void store(xen_pfn_t pfn, uint8_t value)
{
    domain[pfn * PAGE_SIZE + 100] = value;
}

/* Between what the sender read of its batch and what it writes to the pipe. */
static void device_writes_while_sent(void)
{
    if ( suspended )
        return; /* it was stopped */
    store(WHILE_SENT, 'w');
    if ( !cleans )
        store(THERE_AND_BACK, 'b');
}

/* Between two rounds. What the CPU wrote is in the log. */
static void guest_runs(unsigned long *log)
{
    store(CPU, 'c');
    store(BOTH, 'c');
    log[CPU / 64] |= 1ul << (CPU % 64);
    log[BOTH / 64] |= 1ul << (BOTH % 64);
    store(DEVICE, 'd');
    store(THERE_AND_BACK, 0);
}

/* ---- the receiver ---- */

static void receive(void)
{
    size_t at = sizeof(struct xc_sr_ihdr) + sizeof(struct xc_sr_dhdr);

    while ( at < streamed )
    {
        struct xc_sr_rhdr *rec = (void *)(stream + at);
        struct xc_sr_rec_page_data_header *head = (void *)(rec + 1);
        uint64_t *pfns = (void *)(head + 1);
        uint8_t *page = (void *)(pfns + head->count);
        unsigned int i;

        at += sizeof(*rec) + ROUNDUP(rec->length, REC_ALIGN_ORDER);
        if ( rec->type != REC_TYPE_PAGE_DATA )
            continue;
        for ( i = 0; i < head->count; i++, page += PAGE_SIZE, sent_pages++ )
            memcpy(received[pfns[i] & PAGE_DATA_PFN_MASK], page, PAGE_SIZE);
    }
}

/* ---- the pipe ---- */

int write_exact(int fd, const void *data, size_t size)
{
    memcpy(stream + streamed, data, size);
    streamed += size;
    return 0;
}

int writev_exact(int fd, const struct iovec *iov, int count)
{
    if ( *(uint32_t *)iov[0].iov_base == REC_TYPE_PAGE_DATA )
        device_writes_while_sent();
    for ( int i = 0; i < count; i++ )
        write_exact(fd, iov[i].iov_base, iov[i].iov_len);
    return 0;
}

int read_exact(int fd, void *data, size_t size)
{
    return -1; /* nothing comes back */
}

/* ---- Xen ---- */

void *xenforeignmemory_map(xenforeignmemory_handle *h, uint32_t dom, int prot,
                           size_t n, const xen_pfn_t mfns[], int errors[])
{
    uint8_t *at = mmap(NULL, n * PAGE_SIZE, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for ( size_t i = 0; i < n; i++ )
    {
        if ( mmap(at + i * PAGE_SIZE, PAGE_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED,
                  memory, mfns[i] * PAGE_SIZE) == MAP_FAILED )
            abort();
        errors[i] = 0;
    }
    return at;
}

int xenforeignmemory_unmap(xenforeignmemory_handle *h, void *at, size_t n)
{
    return munmap(at, n * PAGE_SIZE);
}

int xc_get_pfn_type_batch(xc_interface *xch, uint32_t dom, unsigned int n,
                          xen_pfn_t *types)
{
    memset(types, 0, n * sizeof(*types)); /* all are ordinary memory */
    return 0;
}

long long xc_logdirty_control(xc_interface *xch, uint32_t domid, unsigned int sop,
                              xc_hypercall_buffer_t *bitmap, unsigned long pages,
                              unsigned int mode, xc_shadow_op_stats_t *stats)
{
    unsigned long *log = bitmap->hbuf;

    memset(log, 0, (pages + 7) / 8);
    /* The guest has run for some rounds, and then is quiet. */
    if ( !suspended && cleans < 2 )
        guest_runs(log);
    ++cleans;
    stats->dirty_count = suspended ? 0 : 100; /* go on, till the round limit */
    return pages;
}

int xc_shadow_control(xc_interface *xch, uint32_t domid, unsigned int sop,
                      unsigned int *mb, unsigned int mode)
{
    return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t domid, unsigned int n,
                      xc_dominfo_t *info)
{
    *info = (xc_dominfo_t){
        .domid = domid,
        .hvm = 1,
        .shutdown = suspended,
        .shutdown_reason = SHUTDOWN_suspend,
    };
    return 1;
}

int xc_version(xc_interface *xch, int cmd, void *arg)
{
    return 4 << 16 | 17;
}

void *xc__hypercall_buffer_alloc_pages(xc_interface *xch, xc_hypercall_buffer_t *b,
                                       int pages)
{
    return b->hbuf = calloc(pages, PAGE_SIZE);
}

void xc__hypercall_buffer_free_pages(xc_interface *xch, xc_hypercall_buffer_t *b,
                                     int pages)
{
    free(b->hbuf);
}

/* ---- what is said on the way ---- */

static void say(const char *format, va_list args)
{
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void xc_report_error(xc_interface *xch, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
}

void xc_report(xc_interface *xch, xentoollog_logger *log, xentoollog_level level,
               int code, const char *format, ...) {}
void xc_report_progress_single(xc_interface *xch, const char *doing) {}
void xc_report_progress_step(xc_interface *xch, unsigned long done,
                             unsigned long total) {}
const char *xc_set_progress_prefix(xc_interface *xch, const char *doing)
{
    return NULL;
}
const char *xc_strerror(xc_interface *xch, int code) { return strerror(code); }

/* ---- the kind of guest: HVM, of whose state nothing matters here ---- */

static xen_pfn_t same_frame(const struct xc_sr_context *ctx, xen_pfn_t pfn)
{
    return pfn;
}
static int as_it_is(struct xc_sr_context *ctx, xen_pfn_t type, void **page)
{
    return 0;
}
static int nothing(struct xc_sr_context *ctx) { return 0; }
static int set_up(struct xc_sr_context *ctx)
{
    ctx->save.p2m_size = PAGES;
    return 0;
}

struct xc_sr_save_ops save_ops_x86_pv, save_ops_x86_hvm = {
    .pfn_to_gfn = same_frame,
    .normalise_page = as_it_is,
    .setup = set_up,
    .static_data = nothing,
    .start_of_stream = nothing,
    .start_of_checkpoint = nothing,
    .end_of_checkpoint = nothing,
    .check_vm_state = nothing,
    .cleanup = nothing,
};

static int suspend(void *data)
{
    suspended = true;
    return 1;
}

static int track_device_model(uint32_t domid, unsigned int enable, void *data)
{
    return 0;
}

/* migrate sends the domain with flags, and returns how many pages differ. */
static unsigned int migrate(uint32_t flags)
{
    struct save_callbacks callbacks = {
        .suspend = suspend,
        .switch_qemu_logdirty = track_device_model,
    };
    struct xc_interface_core xch = { 0 };
    unsigned int differ = 0;

    memset(domain, 0, PAGES * PAGE_SIZE);
    memset(received, 0xff, sizeof(received));
    suspended = false;
    cleans = sent_pages = streamed = 0;

    if ( xc_domain_save(&xch, -1, 1, flags, &callbacks, XC_STREAM_PLAIN, -1) )
    {
        fprintf(stderr, "the sender failed\n");
        exit(2);
    }
    receive();
    for ( xen_pfn_t p = 0; p < PAGES; p++ )
        if ( memcmp(received[p], domain + p * PAGE_SIZE, PAGE_SIZE) )
        {
            printf("  page %"PRIpfn" is stale\n", p);
            ++differ;
        }
    printf("  %u pages of %u sent, %u stale\n", sent_pages, PAGES, differ);

    return differ;
}

int main(void)
{
    unsigned int with, without;

    memory = memfd_create("domain", 0);
    if ( memory < 0 || ftruncate(memory, PAGES * PAGE_SIZE) )
        return 2;
    domain = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    stream = mmap(NULL, 64ul << 20, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if ( domain == MAP_FAILED || stream == MAP_FAILED )
        return 2;

    printf("pre-copy by the dirty log alone, to be stale:\n");
    without = migrate(XCFLAGS_LIVE);
    printf("pre-copy with a hash of each page sent:\n");
    with = migrate(XCFLAGS_LIVE | XCFLAGS_DEVICES);

    return !(without > 0 && with == 0);
}
