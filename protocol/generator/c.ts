// SPDX-License-Identifier: Apache-2.0
/** The C header that the QEMU patch includes: QEMU's coding style, msgpack-c's C API and nothing else. */
import type { Field, Message } from '../messages.ts'
import {
  MAX_BYTES,
  MAX_CHECKPOINT,
  MAX_FRAME,
  MAX_FRAMES,
  MAX_LIST,
  MAX_STRING,
  TOKEN_BYTES,
  VERSION,
} from '../messages.ts'
import {
  arity,
  enumList,
  limit,
  messageArity,
  messageList,
  pascal,
  recordFields,
  recordList,
  snake,
  wrap,
} from './wire.ts'

const WIDTH = 80

const ascii = (text: string): string => text.replaceAll('’', "'").replaceAll('`', '').replaceAll('…', '...')

/** A comment block, in one line where it fits. */
function comment(text: string, indent = ''): string {
  const plain = ascii(text)
  const short = `${indent}/* ${plain} */`
  if (!plain.includes('\n') && short.length <= WIDTH) return short
  const lines = plain.split('\n').flatMap(line => wrap(line, WIDTH - indent.length - 3))
  return [`${indent}/*`, ...lines.map(line => `${indent} * ${line}`.trimEnd()), `${indent} */`].join('\n')
}

/** A call or a declaration: `head` and its comma-separated arguments aligned after the parenthesis. */
function call(head: string, args: readonly string[], tail: string): string {
  const lines: string[] = []
  let line = `${head}(`
  for (const [index, arg] of args.entries()) {
    const text = arg + (index < args.length - 1 ? ',' : tail)
    const gap = line.endsWith('(') || line.trim() === '' ? '' : ' '
    if (line.length + gap.length + text.length > WIDTH) {
      lines.push(line)
      line = ' '.repeat(head.length + 1) + text
    } else {
      line += gap + text
    }
  }
  return [...lines, line].join('\n')
}

const structName = (name: string): string => `Cosim${pascal(name)}`
const idName = (name: string): string => `COSIM_MSG_${snake(name).toUpperCase()}`

function members({ name, type }: Field): string[] {
  const member = snake(name)
  if (typeof type === 'object') return [`const ${structName(type.list)} *${member};`, `uint32_t ${member}_count;`]
  if (type === 'str') return [`const char *${member};`, `uint32_t ${member}_len;`]
  if (type === 'bin') return [`const uint8_t *${member};`, `uint32_t ${member}_len;`]
  return [`uint${type === 'u53' ? '64' : type.slice(1)}_t ${member};`]
}

function struct(name: string, doc: string, fields: readonly Field[]): string {
  const lines = fields.flatMap(field => [comment(field.doc, '    '), ...members(field).map(member => `    ${member}`)])
  return [comment(doc), `typedef struct ${structName(name)} {`, ...lines, `} ${structName(name)};`].join('\n')
}

function messageDoc(name: string, { from, kind, answer, doc }: Message): string {
  const sender = from === 'both' ? 'either end' : from === 'qemu' ? 'QEMU' : 'the server'
  const how = kind === 'request' ? `request of ${sender}, answered by ${answer}` : `${kind} of ${sender}`
  return `${name} (${how}): ${doc}`
}

function packField({ name, type }: Field, from: string, indent: string): string[] {
  const member = `${from}${snake(name)}`
  if (typeof type === 'object') {
    const record = recordFields(type.list)
    return [
      `${indent}msgpack_pack_array(pk, ${member}_count);`,
      `${indent}for (uint32_t i = 0; i < ${member}_count; i++) {`,
      `${indent}    const ${structName(type.list)} *r = &${member}[i];`,
      '',
      `${indent}    msgpack_pack_array(pk, ${arity(record)});`,
      ...record.flatMap(field => packField(field, 'r->', `${indent}    `)),
      `${indent}}`,
    ]
  }
  if (type === 'str' || type === 'bin') return [`${indent}cosim_put_${type}(pk, ${member}, ${member}_len);`]
  if (type === 'u64') return [`${indent}cosim_put_u64(pk, ${member});`]
  return [`${indent}msgpack_pack_uint${type === 'u53' ? '64' : type.slice(1)}(pk, ${member});`]
}

function packer(name: string, message: Message): string {
  const empty = message.fields.length === 0
  const args = ['msgpack_packer *pk', 'uint32_t seq', ...(empty ? [] : [`const ${structName(name)} *m`])]
  return [
    call(`static inline void cosim_pack_${snake(name)}`, args, ')'),
    '{',
    `    msgpack_pack_array(pk, ${messageArity(message)});`,
    `    msgpack_pack_uint8(pk, ${idName(name)});`,
    '    msgpack_pack_uint32(pk, seq);',
    ...message.fields.flatMap(field => packField(field, 'm->', '    ')),
    '}',
  ].join('\n')
}

/** The largest value of a field as C writes it. */
function limitName(field: Field): string {
  if (field.max === MAX_CHECKPOINT) return 'COSIM_MAX_CHECKPOINT'
  if (field.max === MAX_BYTES || (field.type === 'bin' && field.max === undefined)) return 'COSIM_MAX_BYTES'
  if (field.max !== undefined) return String(field.max)
  return field.type === 'u53' ? 'COSIM_MAX_U53' : `UINT${String(field.type).slice(1)}_MAX`
}

function expected(field: Field): string {
  if (field.type === 'str' || field.type === 'bin') return `${field.type} up to ${limit(field)} bytes`
  return field.max === undefined ? `a ${field.type}` : `0 to ${field.max}`
}

function getField(owner: string, field: Field, index: number, tail: string): string {
  const { name, type } = field
  if (typeof type === 'object') throw new Error(`${owner}.${name}: QEMU receives no lists`)
  const member = `&m->${snake(name)}`
  const limits = type === 'u64' || type === 'str' ? [] : [limitName(field)]
  const into = type === 'str' || type === 'bin' ? [member, `${member}_len`] : [member]
  const args = [`&f[${index}]`, ...limits, ...into, 'err', `"${owner}.${name}: expected ${expected(field)}"`]
  return call(`           cosim_get_${type}`, args, `)${tail}`)
}

function unpacker(name: string, message: Message): string {
  const { fields } = message
  const count = messageArity(message)
  const head = `static inline bool cosim_unpack_${snake(name)}`
  const text = `"${name}: expected ${count} elements"`
  if (fields.length === 0) {
    return [
      call(head, ['const msgpack_object *o', 'CosimError *err'], ')'),
      '{',
      call('    return cosim_fields', ['o', String(count), 'err', text], ') != NULL;'),
      '}',
    ].join('\n')
  }
  let index = 0
  const gets = fields.map((field, position) => {
    const at = index
    index += arity([field])
    return getField(name, field, at, position < fields.length - 1 ? ' &&' : ';')
  })
  return [
    call(head, ['const msgpack_object *o', `${structName(name)} *m`, 'CosimError *err'], ')'),
    '{',
    '    const msgpack_object *f;',
    '',
    call('    f = cosim_fields', ['o', String(count), 'err', text], ');'),
    `    return f &&\n${gets.join('\n')}`,
    '}',
  ].join('\n')
}

const constants = (): string =>
  [
    comment('Protocol versions that this header speaks'),
    `#define COSIM_VERSION_MIN ${VERSION.min}`,
    `#define COSIM_VERSION_MAX ${VERSION.max}`,
    '',
    comment('Limits, in bytes but for those of a list, of a call stack and of a u53'),
    `#define COSIM_MAX_FRAME ${MAX_FRAME}`,
    `#define COSIM_MAX_BYTES ${MAX_BYTES}`,
    `#define COSIM_MAX_CHECKPOINT ${MAX_CHECKPOINT}`,
    `#define COSIM_MAX_STRING ${MAX_STRING}`,
    `#define COSIM_MAX_LIST ${MAX_LIST}`,
    `#define COSIM_MAX_FRAMES ${MAX_FRAMES}`,
    `#define COSIM_TOKEN_BYTES ${TOKEN_BYTES}`,
    '#define COSIM_MAX_U53 ((UINT64_C(1) << 53) - 1)',
  ].join('\n')

function enumeration(name: string, values: readonly (readonly [string, number, string])[]): string {
  const prefix = `COSIM_${snake(name).toUpperCase()}_`
  const lines = values.flatMap(([key, value, doc]) => [
    comment(doc, '    '),
    `    ${prefix}${snake(key).toUpperCase()} = ${value},`,
  ])
  return [comment(name), 'enum {', ...lines, '};'].join('\n')
}

const messageNames = (): string =>
  [
    comment('Name of a message for people, "?" for an unknown id'),
    'static inline const char *cosim_message_name(uint32_t id)',
    '{',
    '    switch (id) {',
    ...messageList.map(([name]) => `    case ${idName(name)}:\n        return "${name}";`),
    '    default:',
    '        return "?";',
    '    }',
    '}',
  ].join('\n')

const taken = (): string =>
  [
    comment('Whether QEMU takes this message'),
    'static inline bool cosim_message_taken(uint32_t id)',
    '{',
    '    switch (id) {',
    ...messageList.filter(([, { from }]) => from !== 'qemu').map(([name]) => `    case ${idName(name)}:`),
    '        return true;',
    '    default:',
    '        return false;',
    '    }',
    '}',
  ].join('\n')

const runtime = `/* Sequence number after seq: 1 to UINT32_MAX, then 1 again */
static inline uint32_t cosim_next_seq(uint32_t seq)
{
    return seq == UINT32_MAX ? 1 : seq + 1;
}

static inline void cosim_put_u64(msgpack_packer *pk, uint64_t value)
{
    msgpack_pack_uint32(pk, value >> 32);
    msgpack_pack_uint32(pk, (uint32_t)value);
}

static inline void cosim_put_str(msgpack_packer *pk, const char *str,
                                 uint32_t len)
{
    msgpack_pack_str(pk, len);
    if (len > 0) {
        msgpack_pack_str_body(pk, str, len);
    }
}

static inline void cosim_put_bin(msgpack_packer *pk, const uint8_t *bin,
                                 uint32_t len)
{
    msgpack_pack_bin(pk, len);
    if (len > 0) {
        msgpack_pack_bin_body(pk, bin, len);
    }
}

/* Record what is wrong with a frame; text is a static string */
static inline bool cosim_fail(CosimError *err, uint16_t code, const char *text)
{
    err->code = code;
    err->text = text;
    err->text_len = strlen(text);
    return false;
}

/* Integer of len bytes, most significant first */
static inline uint32_t cosim_big_endian(const uint8_t *p, size_t len)
{
    uint32_t value = 0;

    while (len-- > 0) {
        value = value << 8 | *p++;
    }
    return value;
}

/* Size of the scalar at p; 0 if it is none or not within size bytes */
static inline size_t cosim_scalar_size(const uint8_t *p, size_t size)
{
    /* By first byte from 0xc0: size without body; bytes of the body's length */
    static const uint8_t head[32] = {
        1, 0, 1, 1, 2, 3, 5, 3, 4, 6, 5, 9, 2, 3, 5, 9,
        2, 3, 5, 9, 3, 4, 6, 10, 18, 2, 3, 5, 0, 0, 0, 0,
    };
    static const uint8_t length[32] = {
        [4] = 1, [5] = 2, [6] = 4, [7] = 1, [8] = 2, [9] = 4,
        [25] = 1, [26] = 2, [27] = 4,
    };
    uint8_t first = p[0];
    uint64_t total;

    if (first < 0x80 || first >= 0xe0) {
        return 1;
    } else if (first < 0xa0) {
        return 0;
    } else if (first < 0xc0) {
        total = 1 + (first & 0x1f);
    } else {
        total = head[first - 0xc0];
        if (total > size) {
            return 0;
        }
        total += cosim_big_endian(p + 1, length[first - 0xc0]);
    }
    return total <= size ? total : 0;
}

/*
 * Check that a payload is one msgpack array of scalars. msgpack-c allocates
 * whatever element count a header claims, and follows any nesting, so it sees
 * only what passes here.
 */
static inline bool cosim_check_payload(const uint8_t *p, size_t size,
                                       CosimError *err)
{
    uint32_t count;
    size_t step;

    if (size >= 1 && (p[0] & 0xf0) == 0x90) {
        count = p[0] & 0x0f;
        step = 1;
    } else if (size >= 3 && p[0] == 0xdc) {
        count = cosim_big_endian(p + 1, 2);
        step = 3;
    } else if (size >= 5 && p[0] == 0xdd) {
        count = cosim_big_endian(p + 1, 4);
        step = 5;
    } else {
        return cosim_fail(err, COSIM_ERROR_MSGPACK,
                          "payload: expected an array");
    }
    if (count < 2 || count > COSIM_MAX_ARITY) {
        return cosim_fail(err, COSIM_ERROR_ARITY,
                          "payload: no message has that many elements");
    }
    for (uint32_t i = 0; i < count; i++) {
        p += step;
        size -= step;
        if (size == 0) {
            return cosim_fail(err, COSIM_ERROR_MSGPACK,
                              "payload: ends within the array");
        }
        if ((p[0] >= 0x80 && p[0] < 0xa0) || (p[0] >= 0xdc && p[0] < 0xe0)) {
            return cosim_fail(err, COSIM_ERROR_VALUE,
                              "payload: an element is an array or a map");
        }
        if (p[0] >= 0xd0 && p[0] <= 0xd3) {
            return cosim_fail(err, COSIM_ERROR_VALUE,
                              "payload: an element is a signed integer");
        }
        step = cosim_scalar_size(p, size);
        if (step == 0) {
            return cosim_fail(err, COSIM_ERROR_MSGPACK,
                              "payload: an element is invalid or cut off");
        }
    }
    if (size != step) {
        return cosim_fail(err, COSIM_ERROR_MSGPACK,
                          "payload: bytes follow the array");
    }
    return true;
}

/*
 * Parse the payload of one frame. o points into payload and zone; clear the
 * zone (msgpack_zone_clear) when the message has been dealt with.
 */
static inline bool cosim_parse(const uint8_t *payload, size_t size,
                               msgpack_zone *zone, msgpack_object *o,
                               CosimError *err)
{
    size_t off = 0;

    if (!cosim_check_payload(payload, size, err)) {
        return false;
    }
    if (msgpack_unpack((const char *)payload, size, &off, zone, o) !=
        MSGPACK_UNPACK_SUCCESS) {
        return cosim_fail(err, COSIM_ERROR_MSGPACK,
                          "payload: refused by msgpack-c");
    }
    return true;
}

/* Fields of a message of count elements, after its id and seq */
static inline const msgpack_object *cosim_fields(const msgpack_object *o,
                                                 uint32_t count,
                                                 CosimError *err,
                                                 const char *text)
{
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != count) {
        cosim_fail(err, COSIM_ERROR_ARITY, text);
        return NULL;
    }
    return o->via.array.ptr + 2;
}

static inline bool cosim_get_u53(const msgpack_object *o, uint64_t max,
                                 uint64_t *value, CosimError *err,
                                 const char *text)
{
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > max) {
        return cosim_fail(err, COSIM_ERROR_VALUE, text);
    }
    *value = o->via.u64;
    return true;
}

static inline bool cosim_get_u32(const msgpack_object *o, uint32_t max,
                                 uint32_t *value, CosimError *err,
                                 const char *text)
{
    uint64_t wide;

    if (!cosim_get_u53(o, max, &wide, err, text)) {
        return false;
    }
    *value = wide;
    return true;
}

static inline bool cosim_get_u16(const msgpack_object *o, uint16_t max,
                                 uint16_t *value, CosimError *err,
                                 const char *text)
{
    uint64_t wide;

    if (!cosim_get_u53(o, max, &wide, err, text)) {
        return false;
    }
    *value = wide;
    return true;
}

static inline bool cosim_get_u8(const msgpack_object *o, uint8_t max,
                                uint8_t *value, CosimError *err,
                                const char *text)
{
    uint64_t wide;

    if (!cosim_get_u53(o, max, &wide, err, text)) {
        return false;
    }
    *value = wide;
    return true;
}

/* A u64 is two elements, its high and its low 32 bits */
static inline bool cosim_get_u64(const msgpack_object *o, uint64_t *value,
                                 CosimError *err, const char *text)
{
    uint32_t high, low;

    if (!cosim_get_u32(&o[0], UINT32_MAX, &high, err, text) ||
        !cosim_get_u32(&o[1], UINT32_MAX, &low, err, text)) {
        return false;
    }
    *value = (uint64_t)high << 32 | low;
    return true;
}

/* Whether these bytes are UTF-8 (shortest form, no surrogates) without NUL */
static inline bool cosim_is_text(const char *str, uint32_t len)
{
    static const uint32_t least[4] = { 1, 0x80, 0x800, 0x10000 };
    const uint8_t *p = (const uint8_t *)str;
    const uint8_t *end = p + len;

    while (p < end) {
        uint8_t first = *p++;
        uint32_t more = first < 0x80 ? 0 : first < 0xe0 ? 1 :
                        first < 0xf0 ? 2 : 3;
        uint32_t code = more ? first & (0x3f >> more) : first;

        if ((first >= 0x80 && first < 0xc2) || first > 0xf4 ||
            more > end - p) {
            return false;
        }
        for (uint32_t i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80) {
                return false;
            }
            code = code << 6 | (*p & 0x3f);
        }
        if (code < least[more] || (code >= 0xd800 && code < 0xe000) ||
            code > 0x10ffff) {
            return false;
        }
    }
    return true;
}

/* str is not NUL-terminated, and lives as long as the payload */
static inline bool cosim_get_str(const msgpack_object *o, const char **str,
                                 uint32_t *len, CosimError *err,
                                 const char *text)
{
    if (o->type != MSGPACK_OBJECT_STR || o->via.str.size > COSIM_MAX_STRING ||
        !cosim_is_text(o->via.str.ptr, o->via.str.size)) {
        return cosim_fail(err, COSIM_ERROR_VALUE, text);
    }
    *str = o->via.str.ptr;
    *len = o->via.str.size;
    return true;
}

/* bin lives as long as the payload */
static inline bool cosim_get_bin(const msgpack_object *o, uint32_t max,
                                 const uint8_t **bin, uint32_t *len,
                                 CosimError *err, const char *text)
{
    if (o->type != MSGPACK_OBJECT_BIN || o->via.bin.size > max) {
        return cosim_fail(err, COSIM_ERROR_VALUE, text);
    }
    *bin = (const uint8_t *)o->via.bin.ptr;
    *len = o->via.bin.size;
    return true;
}

/*
 * Read id and sequence number of a parsed message, and check that QEMU takes
 * it. The unpack function of the message checks the rest.
 */
static inline bool cosim_unpack_head(const msgpack_object *o, uint32_t *id,
                                     uint32_t *seq, CosimError *err)
{
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < 2) {
        return cosim_fail(err, COSIM_ERROR_ARITY,
                          "payload: expected an array of at least 2 elements");
    }
    if (!cosim_get_u32(&o->via.array.ptr[0], UINT32_MAX, id, err,
                       "type: expected an integer below 2^32")) {
        return false;
    }
    if (!cosim_message_taken(*id)) {
        return cosim_fail(err, COSIM_ERROR_TYPE,
                          "type: not a message that QEMU takes");
    }
    if (!cosim_get_u32(&o->via.array.ptr[1], UINT32_MAX, seq, err,
                       "seq: expected an integer below 2^32")) {
        return false;
    }
    return *seq != 0 || cosim_fail(err, COSIM_ERROR_VALUE,
                                   "seq: expected an integer above 0");
}`

/** Text of smmu-cosim-protocol.h. */
export function header(): string {
  const sent = messageList.filter(([, { from }]) => from !== 'server')
  const received = messageList.filter(([, { from }]) => from !== 'qemu')
  const maxArity = Math.max(...messageList.map(([, message]) => messageArity(message)))
  const parts = [
    comment(`The wire between QEMU and the smmu-cosim server

Generated from protocol/messages.ts of smmu-cosim; do not edit. What the messages mean is said in protocol/README.md there.

A frame is a little-endian uint32_t length and a payload of that many bytes: one msgpack array [id, seq, fields...]. To receive: cosim_parse, cosim_unpack_head, then the cosim_unpack function of that id; each returns false and fills a CosimError, ready to be sent, when the peer broke the protocol. Strings and bytes point to memory that the struct does not own; when sending they must respect the limits below.

SPDX-License-Identifier: GPL-2.0-or-later`),
    '#ifndef HW_ARM_SMMU_COSIM_PROTOCOL_H\n#define HW_ARM_SMMU_COSIM_PROTOCOL_H',
    '#include <msgpack.h>',
    `${constants()}\n\n${comment('Most elements of any message')}\n#define COSIM_MAX_ARITY ${maxArity}`,
    ...enumList.map(([name, values]) => enumeration(name, values)),
    `enum {\n${messageList.map(([name, { id }]) => `    ${idName(name)} = ${id},`).join('\n')}\n};`,
    messageNames(),
    taken(),
    ...recordList.map(([name, fields]) => struct(name, `Record ${name}`, fields)),
    ...messageList
      .filter(([, { fields }]) => fields.length > 0)
      .map(([name, message]) => struct(name, messageDoc(name, message), message.fields)),
    runtime,
    ...sent.map(([name, message]) => packer(name, message)),
    ...received.map(([name, message]) => unpacker(name, message)),
    '#endif /* HW_ARM_SMMU_COSIM_PROTOCOL_H */',
  ]
  return `${parts.join('\n\n')}\n`
}
