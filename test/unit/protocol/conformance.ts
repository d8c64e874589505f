// SPDX-License-Identifier: Apache-2.0
/** Builds conformance.c with the generated header, and talks to it. */
import { execFileSync, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Value } from '../../../protocol/generator/vectors.ts'
import { messageList, pascal, recordFields, snake } from '../../../protocol/generator/wire.ts'
import type { Field, Message } from '../../../protocol/messages.ts'

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))

const idName = (name: string): string => `COSIM_MSG_${snake(name).toUpperCase()}`

function printField({ name, type }: Field): string {
  const member = `m.${snake(name)}`
  return type === 'str' || type === 'bin'
    ? `print_bytes("${name}", ${member}, ${member}_len);`
    : `print_uint("${name}", ${member});`
}

function printCase([name, { fields }]: readonly [string, Message]): string {
  const empty = fields.length === 0
  return `
    case ${idName(name)}: {
        ${empty ? '' : `Cosim${pascal(name)} m;`}
        if (!cosim_unpack_${snake(name)}(o, ${empty ? '' : '&m, '}err)) {
            return false;
        }
        printf("ok %s %u", cosim_message_name(id), seq);
        ${fields.map(printField).join('\n        ')}
        return true;
    }`
}

/** Initialisers of the members that hold these fields; `at` is a C expression of their elements. */
function takeFields(fields: readonly Field[], at: string): string {
  let index = 0
  return fields
    .map(({ name, type }) => {
      const member = `.${snake(name)}`
      const element = `${at}[${index}]`
      index += type === 'u64' ? 2 : 1
      if (typeof type === 'object') return `${member} = ${name}, ${member}_count = ${element}.via.array.size`
      if (type === 'u64') return `${member} = take_u64(&${element})`
      const via = `${element}.via.${type}`
      if (type === 'str') return `${member} = ${via}.ptr, ${member}_len = ${via}.size`
      if (type === 'bin') return `${member} = (const uint8_t *)${via}.ptr, ${member}_len = ${via}.size`
      return `${member} = ${element}.via.u64`
    })
    .join(', ')
}

function takeLists(fields: readonly Field[]): string {
  return fields
    .map(({ name, type }, index) => {
      if (typeof type !== 'object') return ''
      const record = `Cosim${pascal(type.list)}`
      return `
        ${record} ${name}[MAX_RECORDS];
        assert(f[${index + 2}].via.array.size <= MAX_RECORDS);
        for (uint32_t i = 0; i < f[${index + 2}].via.array.size; i++) {
            const msgpack_object *r = take_record(&f[${index + 2}], i);
            ${name}[i] = (${record}) { ${takeFields(recordFields(type.list), 'r')} };
        }`
    })
    .join('')
}

const packCase = ([name, { fields }]: readonly [string, Message]): string => `
    case ${idName(name)}: {${takeLists(fields)}
        Cosim${pascal(name)} m = { ${takeFields(fields, '(f + 2)')} };
        cosim_pack_${snake(name)}(pk, f[1].via.u64, &m);
        return;
    }`

const received = messageList.filter(([, { from }]) => from !== 'qemu')
const sent = messageList.filter(([, { from }]) => from !== 'server')

const source = (): string => `
static bool print_message(const msgpack_object *o, uint32_t id, uint32_t seq, CosimError *err)
{
    switch (id) {${received.map(printCase).join('')}
    }
    abort();
}

static void pack_message(msgpack_packer *pk, const msgpack_object *o)
{
    const msgpack_object *f = o->via.array.ptr;

    switch (f[0].via.u64) {${sent.map(packCase).join('')}
    }
    abort();
}
`

/** Compiler and linker flags of msgpack-c: its pkg-config name depends on its version. */
function msgpackFlags(): string[] {
  for (const name of ['msgpack-c', 'msgpack']) {
    const { status, stdout } = spawnSync('pkg-config', ['--cflags', '--libs', name], { encoding: 'utf8' })
    if (status === 0) return stdout.split(/\s+/).filter(flag => flag !== '')
  }
  throw new Error('msgpack-c is missing: install libmsgpack-dev (Debian 12) or libmsgpack-c-dev (13), and pkg-config')
}

/**
 * Compiles conformance.c into `folder`, as QEMU would compile the header and with the sanitizers on.
 * @returns the program's path
 */
export function build(folder: string): string {
  writeFileSync(join(folder, 'conformance-messages.h'), source())
  const program = join(folder, 'conformance')
  const warnings = ['-Wall', '-Wextra', '-Werror']
  const sanitizers = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all']
  const includes = ['-I', folder, '-I', path('../../../protocol/generated')]
  const options = ['-std=gnu11', '-g', '-O1', ...warnings, ...sanitizers, ...includes]
  execFileSync('gcc', [...options, '-o', program, path('conformance.c'), ...msgpackFlags()])
  return program
}

/** @returns the program's answers to these lines */
export function run(program: string, lines: readonly string[]): string[] {
  const { status, stdout, stderr } = spawnSync(program, {
    input: `${lines.join('\n')}\n`,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    // LeakSanitizer cannot work where tracing is not allowed, as in many containers
    env: { ...process.env, ASAN_OPTIONS: 'detect_leaks=0' },
  })
  if (status !== 0) throw new Error(`the C program failed with ${status}:\n${stderr}`)
  const answers = stdout.split('\n')
  answers.pop()
  if (answers.length !== lines.length) throw new Error(`${answers.length} answers to ${lines.length} lines`)
  return answers
}

/** What the program prints for a message with these fields. */
export function printed(name: string, fields: readonly Field[], seq: number, values: Record<string, Value>): string {
  const show = ({ name: key, type }: Field): string => {
    const value = values[key]
    if (type === 'str') return Buffer.from(String(value)).toString('hex')
    return type === 'bin' ? String(value) : BigInt(value as number | string).toString(16)
  }
  return ['ok', name, seq, ...fields.map(field => `${field.name}=${show(field)}`)].join(' ')
}
