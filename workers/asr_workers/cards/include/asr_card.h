/*
 * asr_card.h - the interface between asr-pool and a speech recognition card. ABI version 1.0.
 *
 * A card holds one compiled RNN-T model and numbered slots. A slot holds the state of one speaker: what the front end
 * carries over, the LSTM states of encoder and predictor, the last predictor output and a step counter. The host
 * submits chunks of 60 ms for many slots in one call and polls for their completions. A vendor's adapter is a shared
 * library that exports exactly the functions of this header; nothing else is asked of it.
 *
 * VERSIONS. asr_card_abi_version() is called first. The host works with a library of the same major version and the
 * same or a higher minor version. Every struct that the library fills begins with `struct_size`, set by the host: the
 * library writes no more than that many bytes, so a later minor version may append fields.
 *
 * STATUS CODES. Every function returns ASR_CARD_OK or a positive code below; codes from 1000 on are the vendor's own.
 * asr_card_last_error() gives a sentence for the last failure of the calling thread. After ASR_CARD_E_LINK or
 * ASR_CARD_E_RESET as the result of a call (not of one completion), nothing but health and close is promised to work.
 *
 * MEMORY. Each side frees what it allocated. The library copies what it is given before a call returns and keeps no
 * pointer to it; it writes only into the caller's buffers. Strings are UTF-8 and zero terminated.
 *
 * BLOCKING. asr_card_submit and asr_card_submit_features never wait for the card. asr_card_poll waits at most its
 * timeout. asr_card_load, asr_card_open and asr_card_close may take seconds. All others return at once.
 *
 * THREADS. Functions without a card may be called from any thread. Calls on one card may come from any thread: the
 * library serialises them. asr_card_poll may run in one thread while others call anything but asr_card_close; two
 * threads never poll one card at once. While asr_card_load works, calls that begin on the same card are
 * ASR_CARD_E_BUSY; asr_card_get_health answers. asr_card_close must be the last call on a card. The library installs no
 * signal handler and survives none of fork()'s children: a forked child opens its own card.
 *
 * ORDER. Chunks of one slot are computed and completed in the order in which they were submitted, each exactly once;
 * nothing is promised between slots. The result of a chunk depends on the chunks of its slot since open or reset, not
 * on what other slots do at the time.
 *
 * AUDIO. 16 kHz mono, signed 16 bit, ASR_CARD_CHUNK_SAMPLES samples in a chunk; the caller pads the last chunk of an
 * utterance with zeros. The card's front end is: samples / 32768, (window - 160) zeros before the first chunk,
 * pre-emphasis x[n] - 0.97 x[n-1], frames of `window` samples every 160, Hann window 0.5 (1 - cos(2 pi (n + 0.5) /
 * window)), 512-point power spectrum, 80 mel bands (Slaney's formula from 0 to 8000 Hz, triangles linear in Hz, each
 * times 2 / its width in Hz), natural logarithm (floor 1e-20), (x - mean) / sqrt(variance) from the model, frames
 * stacked into the encoder's input. One chunk is six mel frames and one encoder step. No dither.
 */
#ifndef ASR_CARD_H
#define ASR_CARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define ASR_CARD_API __declspec(dllexport)
#else
#define ASR_CARD_API __attribute__((visibility("default")))
#endif

#define ASR_CARD_ABI_MAJOR 1
#define ASR_CARD_ABI_MINOR 0

#define ASR_CARD_CHUNK_SAMPLES 960  /* 60 ms */
#define ASR_CARD_CHUNK_FEATURES 480 /* 6 frames of 80 normalised log-mel bands */
#define ASR_CARD_PACKET_WIDTH 32    /* values of a top-k packet; it stands for 8 x 32 classes */

enum asr_card_status {
    ASR_CARD_OK = 0,
    ASR_CARD_E_ARGUMENT = 1,    /* a null pointer, a slot number out of range, an unknown option */
    ASR_CARD_E_NO_CARD = 2,     /* no card of that index */
    ASR_CARD_E_BUSY = 3,        /* another process has the card, it loads a model, or the slot has chunks in flight */
    ASR_CARD_E_FULL = 4,        /* a queue has no room: nothing of this call was taken; poll, then try again */
    ASR_CARD_E_STATE = 5,       /* not in this order: no model loaded, slot not open, slot already open */
    ASR_CARD_E_MODEL = 6,       /* the model file is missing, truncated, corrupted, of another version or too large */
    ASR_CARD_E_MEMORY = 7,      /* the host or the card is out of memory */
    ASR_CARD_E_CAPACITY = 8,    /* more slots than the card has */
    ASR_CARD_E_UNSUPPORTED = 9, /* the library cannot do this */
    ASR_CARD_E_BAD_STATE = 10,  /* state bytes that are damaged, or of another model or version */
    ASR_CARD_E_RESET = 11,      /* the card restarted: the states of all slots are lost */
    ASR_CARD_E_ECC = 12,        /* memory error that could not be corrected: the slot's state is lost */
    ASR_CARD_E_HEAT = 13,       /* the card is too hot and computes nothing until it has cooled */
    ASR_CARD_E_LINK = 14,       /* the card cannot be reached */
    ASR_CARD_E_INTERNAL = 15    /* anything else; the sentence says what */
};

typedef struct asr_card asr_card;

typedef struct asr_card_identity {
    uint32_t struct_size; /* in: sizeof(asr_card_identity) */
    uint32_t is_physical; /* 1 for hardware, 0 for a simulator */
    uint32_t capacity;    /* streams in real time: of the loaded model; before, the most with any model */
    uint32_t slots_max;   /* slots that can be open at once; at least `capacity` */
    float temperature_c;
    uint32_t reserved;
    char id[64];          /* unique and permanent, e.g. of the FPGA: what a licence is bound to */
    char serial[64];
    char firmware[64];
    char name[64];        /* product */
    char link[64];        /* e.g. "PCIe 4.0 x16 0000:3b:00.0" */
} asr_card_identity;

typedef struct asr_card_health {
    uint32_t struct_size; /* in: sizeof(asr_card_health) */
    uint32_t is_ok;       /* 0 when the card should not be used */
    float temperature_c;
    uint32_t reserved;
    uint64_t completed;       /* chunks completed without error since open */
    uint64_t errors;          /* chunks completed with an error since open */
    uint64_t ecc_errors;      /* since open, corrected ones included */
    uint64_t deadline_misses; /* chunks completed more than 60 ms after they were submitted */
    uint64_t resets;          /* of the card by itself, since open */
} asr_card_health;

#define ASR_CARD_CHUNK_LAST 1u /* flag: after this chunk the slot begins anew, as by asr_card_slot_reset */

typedef struct asr_card_chunk {
    uint32_t slot;
    uint32_t flags; /* 0 or ASR_CARD_CHUNK_LAST */
    uint64_t tag;   /* the caller's; comes back in the completion */
} asr_card_chunk;

typedef struct asr_card_completion {
    uint32_t slot;
    int32_t status;  /* ASR_CARD_OK, or why this chunk has no result: RESET, ECC, HEAT, or a vendor's code */
    uint64_t tag;
    uint64_t step;   /* encoder steps of this slot since open or reset, before this one: 0 for the first */
    uint32_t token_offset; /* its first token in `tokens` and `log_probs` */
    uint32_t token_count;  /* 0 when only blank was decoded; at most 30 */
    uint32_t packet_offset;
    uint32_t packet_count; /* joint evaluations (token_count + 1, or 30) x n_classes / 256, with the option top_k */
} asr_card_completion;

/*
 * Logits of 256 classes in short: they are laid out as 8 vectors of 32, value[i] is the largest of the 8 logits at
 * place i, which[i] the vector that has it: the logit is that of class 256 * packet + 32 * which[i] + i.
 */
typedef struct asr_card_packet {
    float value[ASR_CARD_PACKET_WIDTH];
    uint8_t which[ASR_CARD_PACKET_WIDTH];
} asr_card_packet;

/* The caller's buffers for asr_card_poll. A buffer that is too small for all completions leaves the rest for the next
 * call; one that is too small for a single completion is ASR_CARD_E_ARGUMENT. Tokens and packets lie without gaps in
 * the order of the completions: each offset is the sum of the counts before it, also where its own count is 0, and
 * token_count and packet_count are the sums of all. */
typedef struct asr_card_results {
    uint32_t struct_size; /* in: sizeof(asr_card_results) */
    uint32_t completion_max;
    uint32_t token_max;
    uint32_t packet_max; /* 0 without the option top_k */
    uint32_t completion_count; /* out */
    uint32_t token_count;      /* out */
    uint32_t packet_count;     /* out */
    uint32_t reserved;
    asr_card_completion *completions;
    uint32_t *tokens;     /* class numbers; blank, the last class, never appears */
    float *log_probs;     /* natural logarithm of the softmax probability of each token */
    asr_card_packet *packets;
} asr_card_results;

/* ASR_CARD_ABI_MAJOR << 16 | ASR_CARD_ABI_MINOR of the library. */
ASR_CARD_API uint32_t asr_card_abi_version(void);

/* The sentence of the calling thread's last failure, cut to `size` bytes with the zero. */
ASR_CARD_API void asr_card_last_error(char *sentence, size_t size);

/*
 * Options are "key=value,key=value"; "" or NULL for none. A key that the library does not know is
 * ASR_CARD_E_ARGUMENT. Every library knows `top_k=0|1` (packets with each completion; default 0).
 */

/* How many cards there are. Finding none is no error. */
ASR_CARD_API int32_t asr_card_count(const char *options, uint32_t *count);

/* Who a card is, without opening it. */
ASR_CARD_API int32_t asr_card_identify(uint32_t index, const char *options, asr_card_identity *identity);

/* Take a card for this process. */
ASR_CARD_API int32_t asr_card_open(uint32_t index, const char *options, asr_card **card);

/* Give it back; chunks in flight are dropped. The pointer is dead afterwards, whatever is returned. */
ASR_CARD_API int32_t asr_card_close(asr_card *card);

ASR_CARD_API int32_t asr_card_get_identity(asr_card *card, asr_card_identity *identity);

/* Must answer while the card hangs, is too hot or was reset. */
ASR_CARD_API int32_t asr_card_get_health(asr_card *card, asr_card_health *health);

/* Load a compiled model (.carm). Closes no slot: ASR_CARD_E_STATE while slots are open. */
ASR_CARD_API int32_t asr_card_load(asr_card *card, const char *path);

/* Allocate slots 0 .. count-1 (none may be open). Without this call slots_max are there. */
ASR_CARD_API int32_t asr_card_reserve(asr_card *card, uint32_t count);

/* Take a slot into use, in its initial state. */
ASR_CARD_API int32_t asr_card_slot_open(asr_card *card, uint32_t slot);
/* Forget it. ASR_CARD_E_BUSY while chunks of it are in flight; so with all four below. */
ASR_CARD_API int32_t asr_card_slot_close(asr_card *card, uint32_t slot);
/* Back to the initial state. */
ASR_CARD_API int32_t asr_card_slot_reset(asr_card *card, uint32_t slot);

/* Bytes that asr_card_state_export writes with the loaded model. */
ASR_CARD_API int32_t asr_card_state_size(asr_card *card, size_t *size);
/* The state of a slot, bound to the model's checksum: any card with the same model and library continues from it. */
ASR_CARD_API int32_t asr_card_state_export(asr_card *card, uint32_t slot, void *state, size_t size);
ASR_CARD_API int32_t asr_card_state_import(asr_card *card, uint32_t slot, const void *state, size_t size);

/* Take `count` chunks, of open slots; pcm is [count][ASR_CARD_CHUNK_SAMPLES]. All or none are taken. A slot may have
 * several chunks in flight, at least 8. */
ASR_CARD_API int32_t asr_card_submit(asr_card *card, const asr_card_chunk *chunks, uint32_t count, const int16_t *pcm);

/* The same with features instead of samples, [count][6][80]: normalised log-mel frames. A slot whose chunks are mixed
 * continues its front end at the last chunk of samples. May be ASR_CARD_E_UNSUPPORTED. */
ASR_CARD_API int32_t asr_card_submit_features(asr_card *card, const asr_card_chunk *chunks, uint32_t count,
                                              const float *features);

/* Wait until there is a completion, at most `timeout_ms`, then take all there are. None at all is ASR_CARD_OK.
 * A poll that waits when the link is lost ends at once, with what is there or else with ASR_CARD_E_LINK. */
ASR_CARD_API int32_t asr_card_poll(asr_card *card, uint32_t timeout_ms, asr_card_results *results);

#ifdef __cplusplus
}
#endif

#endif
