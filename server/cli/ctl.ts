// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim ctl`: what the dashboard does, for scripts. Every command is one request of the API. */
import { createWriteStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { WebSocket } from 'ws'
import { TOKEN_VARIABLE } from '../api/security.ts'
import { DEFAULT_HOST, DEFAULT_PORT } from '../api/server.ts'
import type { Span } from '../api/tally.ts'
import { type WalkAnswer, walkText } from '../api/walkAnswer.ts'
import { entriesOf, isFile } from '../faults/catalogue.ts'
import { EXIT, fail } from './exit.ts'
import { type RecordedWalkRequest, recordedState } from './walk.ts'

const URL_VARIABLE = 'SMMU_COSIM_URL'
const DEFAULT_URL = process.env[URL_VARIABLE] ?? `http://${DEFAULT_HOST}:${DEFAULT_PORT}/`

interface Global {
  readonly url: string
  readonly json?: boolean
}

type Json = Record<string, unknown>

interface Faults {
  readonly rules: readonly {
    readonly rule: string
    readonly text: string
    readonly matches: number
    readonly fired: number
  }[]
  readonly firings: readonly {
    readonly rule: string
    readonly n: number
    readonly trap: number
    readonly what: string
  }[]
}

interface FaultEffect {
  readonly before: Span
  readonly since: Span
}

const spanLine = (name: string, { seconds, traps, aborted, gerrors, guardFaults, warnings, events, disk }: Span) => {
  const counts = [
    `${traps} traps`,
    `${aborted} aborted`,
    `${gerrors} global errors`,
    `${guardFaults} guard faults`,
    ...(disk === null
      ? []
      : [`${disk.reads} disk reads, ${disk.writes} writes, ${disk.bytes} bytes, ${disk.failed} failed`]),
    ...warnings.map(({ code, count }) => `${count} × ${code}`),
    ...events.map(({ name, count }) => `${count} × ${name}`),
  ]
  return `${name} (${seconds.toFixed(1)} s): ${counts.join(', ')}`
}

const effectLines = (effect: FaultEffect | null): string =>
  effect === null ? 'nothing was armed' : `${spanLine('before', effect.before)}\n${spanLine('since ', effect.since)}`

const faultLines = ({ rules, firings }: Faults): string =>
  [
    ...(rules.length === 0 ? ['nothing is armed'] : []),
    ...rules.map(({ rule, text, matches, fired }) => `${rule}: ${text}; ${matches} matches, fired ${fired} times`),
    ...firings.map(({ rule, n, trap, what }) => `  ${rule} ${n}, trap ${trap}: ${what}`),
  ].join('\n')

/** One server, as the options of the command line name it. */
class Client {
  readonly json: boolean
  readonly #url: URL
  readonly #token: string | undefined

  constructor({ url, json }: Global) {
    const parsed = URL.canParse(url) ? new URL(url) : undefined
    if (parsed === undefined) throw new Error(`--url ${url}: not a URL such as ${DEFAULT_URL}`)
    this.#token = /^#token=(.+)$/.exec(parsed.hash)?.[1] ?? process.env[TOKEN_VARIABLE]
    parsed.hash = ''
    this.#url = parsed
    this.json = json === true
  }

  get #headers(): Record<string, string> {
    return this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }
  }

  async fetch(method: string, path: string, body?: object): Promise<Response> {
    const response = await fetch(new URL(path, this.#url), {
      method,
      headers: { ...this.#headers, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    }).catch(() => {
      throw new Error(`no server at ${this.#url.href}: start one with "smmu-cosim serve", or give --url`)
    })
    if (response.ok) return response
    const { detail, title } = (await response.json().catch(() => ({}))) as { detail?: string; title?: string }
    throw new Error(detail ?? title ?? `status ${response.status}`)
  }

  async call<T = Json>(method: string, path: string, body?: object): Promise<T> {
    const response = await this.fetch(method, `/api/v1${path}`, body)
    return (response.status === 204 ? undefined : await response.json()) as T
  }

  /** Hands every item of a stream to `each`, until the server or the user ends it. */
  stream(name: string, options: object, each: (item: Json) => void): Promise<void> {
    const url = new URL('/api/v1/stream', this.#url)
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
    const socket = new WebSocket(url, { headers: this.#headers })
    return new Promise((resolve, reject) => {
      socket.on('open', () => socket.send(JSON.stringify({ type: 'subscribe', id: '1', stream: name, ...options })))
      socket.on('message', data => {
        const message = JSON.parse(String(data)) as { type: string; items?: Json[]; dropped?: number; error?: string }
        if (message.dropped) console.error(`smmu-cosim: ${message.dropped} items were missed`)
        for (const item of message.items ?? []) each(item)
        if (message.error !== undefined) reject(new Error(message.error))
      })
      socket.on('error', () => reject(new Error(`no stream at ${url.href}`)))
      socket.on('close', () => resolve())
      process.once('SIGINT', () => socket.close())
    })
  }

  /** As JSON, or as `text` puts it. */
  print<T>(value: T, text: (value: T) => string): void {
    console.log(this.json ? JSON.stringify(value, null, 2) : text(value))
  }
}

const address = (text: string): string => {
  if (!/^(0x[0-9a-f]{1,16}|\d{1,16})$/i.test(text))
    throw new InvalidArgumentError('expected a number such as 0x48000000')
  return text
}
const integer = (text: string): number => {
  const value = Number(text)
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0) {
    throw new InvalidArgumentError('expected a whole number')
  }
  return value
}
/** Bytes with an optional K, M or G. */
const bytes = (text: string): number => {
  const match = /^(\d+)([KMG]?)$/i.exec(text)
  if (!match) throw new InvalidArgumentError('expected bytes, such as 4096, 4K or 2M')
  const unit = ['', 'K', 'M', 'G'].indexOf(match[2]?.toUpperCase() ?? '')
  return Number(match[1]) * 1024 ** unit
}

const path = (base: string, query: Record<string, string | number | boolean | undefined>): string => {
  const given = Object.entries(query).flatMap(([k, v]): [string, string][] => (v === undefined ? [] : [[k, String(v)]]))
  return `${base}?${new URLSearchParams(given)}`
}

const row = (item: Json): string => {
  const { seq, time, write, register, value, text, us, warnings, commands, aborted, kind, where } = item as Record<
    string,
    never
  >
  if (kind !== 'trap') return `${kind} ${text}`
  const list = (commands as { command: string; verdict: string; count: number }[])
    .map(c => `${c.command}${c.count > 1 ? `×${c.count}` : ''}${c.verdict === 'kept' ? '' : `(${c.verdict})`}`)
    .join(' ')
  const words = [
    String(seq).padStart(7),
    `${(Number(time) / 1e9).toFixed(6)}`.padStart(11),
    write ? 'W' : 'R',
    String(register).padEnd(16),
    String(value).padEnd(12),
    `${Number(us).toFixed(1)} µs`.padStart(11),
    list || text,
    where ? `in ${where}` : '',
    aborted ? 'ABORTED' : '',
    (warnings as string[]).join(' '),
  ]
  return words.filter(Boolean).join(' ')
}

const statusText = (status: Json): string => {
  const { state, phase, step, options, kernel, held, end } = status as Record<string, never>
  const { policy = 'pkvm', until = 'nested' } = (options ?? {}) as { policy?: string; until?: string }
  const lines = [
    `${state}${state === 'off' ? '' : `, ${phase}${step ? ` (${step})` : ''}, ${policy} ${until}, ${kernel}`}`,
  ]
  if (held) lines.push(heldText(held))
  if (state === 'off' && end)
    lines.push(`last run: ${(end as { outcome: string }).outcome}, ${(end as { message: string }).message}`)
  return lines.join('\n')
}

function heldText(held: {
  hit: { breakpoint: number; phase: string }
  trap: Record<string, number>
  where?: string
}): string {
  const { hit, trap, where } = held
  const value = ((BigInt(trap.hi ?? 0) << 32n) | BigInt(trap.lo ?? 0)).toString(16)
  const what = `${trap.write ? 'write' : 'read'} at 0x${(trap.offset ?? 0).toString(16)} value 0x${value}`
  const place = where === undefined ? '' : `, in ${where}`
  return `held: trap ${trap.seq}, ${what}${place}, ${hit.phase} the decision, breakpoint ${hit.breakpoint}`
}

const list = (items: readonly unknown[], line: (item: never) => string): string =>
  items.length === 0 ? 'none' : items.map(item => line(item as never)).join('\n')

const onSmmu = (command: Command): Command => command.option('--smmu <n>', 'which SMMU', integer, 0)

function urlOptions(command: Command): Command {
  return command
    .option(
      '--url <url>',
      `the server; also ${URL_VARIABLE}. Its token: ${TOKEN_VARIABLE}, or #token=… in the URL`,
      DEFAULT_URL,
    )
    .option('--json', 'print what the API answers')
}

const walkOptions = (command: Command): Command =>
  onSmmu(command)
    .requiredOption('--sid <n>', 'StreamID', integer)
    .requiredOption('--iova <address>', 'input address', address)
    .option('--ssid <n>', 'SubstreamID', integer)
    .addOption(new Option('--read', 'a read (default)').conflicts('write'))
    .option('--write', 'a write')
    .addOption(new Option('--table <which>', 'stream table').choices(['hardware', 'host']))

async function printWalk(client: Client, { smmu, sid, iova, ssid, write, table }: Json): Promise<void> {
  const query = { sid, iova, ssid, table, access: write ? 'write' : 'read' } as Record<string, string>
  client.print(await client.call<WalkAnswer>('GET', path(`/smmus/${smmu}/walk`, query)), walkText)
}

/** What a walk of a recording needs. */
interface RecordedWalkOptions extends RecordedWalkRequest {
  readonly recording: string
  readonly at?: number
}

async function printRecordedWalk({ recording, at, ...request }: RecordedWalkOptions, json: boolean): Promise<void> {
  const { state, problems } = await recordedState(recording, at)
  const answer = state.walk(request)
  console.log(json ? JSON.stringify(answer, null, 2) : walkText(answer))
  for (const problem of problems) console.error(`smmu-cosim: ${problem}`)
  if (answer.outcome === 'unknown') process.exitCode = EXIT.failed
}

/** `smmu-cosim walk`: the same as `ctl walk`, and of a recording. */
export function walkCommand(program: Command): void {
  const command = walkOptions(urlOptions(program.command('walk')))
    .addOption(new Option('--recording <file>', 'of a recorded machine instead of a running one').conflicts('url'))
    .option('--at <trap>', 'with --recording: as it stood after that trap; default: at its end', integer)
  command.description('translate an address step by step').action(async options => {
    try {
      if (options.recording === undefined) {
        if (options.at !== undefined) throw new Error('--at is for a walk of a recording (--recording)')
        await printWalk(new Client(options), options)
      } else {
        await printRecordedWalk({ ...options, iova: BigInt(options.iova), write: options.write === true }, options.json)
      }
    } catch (error) {
      fail(error)
    }
  })
}

/** `smmu-cosim ctl …`. */
export function ctlCommand(program: Command): void {
  const ctl = urlOptions(program.command('ctl')).description(
    'watch and steer the machine of a running server (serve, or boot --dashboard)',
  )

  /** A subcommand whose action gets the client. */
  const add = (
    usage: string,
    description: string,
    build: (command: Command) => Command,
    run: (client: Client, options: Json, args: string[]) => Promise<void>,
  ) => {
    const command = build(ctl.command(usage).description(description))
    command.action(async () => {
      try {
        await run(new Client(ctl.opts()), command.opts(), command.args)
      } catch (error) {
        fail(error)
      }
    })
  }
  const plain = (command: Command): Command => command

  add('status', 'what the machine is doing', plain, async client =>
    client.print(await client.call('GET', '/machine'), statusText),
  )
  add(
    'start',
    'start a machine',
    command =>
      command
        .option('--policy <name>', 'pkvm, passthrough, or own: the file given to serve')
        .option('--until <stage>', 'mmio, cmdq, strtab, queues or nested')
        .option('--kernel <series>', '6.12 or 6.1')
        .option('--memory <size>', 'guest RAM')
        .option('--carveout <size>', 'hypervisor memory')
        .option('--smp <n>', 'vCPUs', integer)
        .option('--run <what>', 'shell or workload')
        .option('--bench <n>', 'timed reads of each disk', integer)
        .option('--append <text>', 'added to the kernel command line')
        .option('--panic-on-warn', 'end at the first unexpected hyp warning')
        .option('--break-first', 'hold the first trap'),
    async (client, options) => client.print(await client.call('POST', '/machine/start', options), statusText),
  )
  for (const [action, description] of [
    ['pause', 'stop the vCPUs'],
    ['resume', 'let the vCPUs run again'],
    ['reset', 'reset the machine'],
    ['power-off', 'press the power button'],
    ['kill', 'end QEMU now'],
  ] as const) {
    add(action, description, plain, async client =>
      client.print(await client.call('POST', `/machine/${action}`), statusText),
    )
  }
  add('qmp <command>', 'a QMP query', plain, async (client, _options, [command]) => {
    client.print(await client.call('POST', '/machine/qmp', { command }), value => JSON.stringify(value.return, null, 2))
  })
  add(
    'wait <phase>',
    'wait until the guest has come so far: kernel, smmu, userspace, done, off',
    command => command.option('--timeout <s>', 'give up after', integer, 120),
    async (client, { timeout }, [phase]) => {
      const phases = ['qemu', 'kernel', 'smmu', 'userspace', 'done']
      if (phase !== 'off' && !phases.includes(String(phase))) throw new Error(`no phase ${phase}`)
      const end = Date.now() + Number(timeout) * 1000
      for (;;) {
        const status = await client.call('GET', '/machine')
        const off = status.state === 'off'
        if (
          off === (phase === 'off') &&
          (off || phases.indexOf(String(status.phase)) >= phases.indexOf(String(phase)))
        ) {
          return client.print(status, statusText)
        }
        if (off && status.end) throw new Error(`the machine has ended: ${(status.end as { message: string }).message}`)
        if (Date.now() > end) throw new Error(`still ${status.phase} after ${timeout} s`)
        await new Promise(resolve => setTimeout(resolve, 250))
      }
    },
  )
  add('type <text>', 'type into the serial console, with a line end', plain, async (client, _options, [text]) => {
    await client.call('POST', '/machine/console', { text: `${text}\n` })
  })
  add(
    'console',
    "the guest's console",
    command => command.option('--follow', 'go on with what comes'),
    async (client, { follow }) => {
      if (follow) {
        return client.stream('console', { last: 20_000 }, ({ text }) => process.stdout.write(String(text)))
      }
      client.print(await client.call('GET', '/machine/console'), ({ text }) => String(text))
    },
  )
  add('info', 'the words that requests are made of', plain, async client => {
    client.print(await client.call('GET', '/info'), ({ registers, warnings, ...rest }) =>
      [
        ...Object.entries(rest).map(
          ([name, value]) => `${name.padEnd(9)} ${Array.isArray(value) ? value.join(' ') : value}`,
        ),
        `registers ${(registers as { name: string }[]).map(({ name }) => name).join(' ')}`,
        `warnings  ${(warnings as { code: string }[]).map(({ code }) => code).join(' ')}`,
      ].join('\n'),
    )
  })
  add('counters', 'everything that is counted', plain, async client => {
    client.print(await client.call('GET', '/counters'), counters => JSON.stringify(counters, null, 2))
  })
  add(
    'traps',
    'the last traps, or those that come',
    command =>
      command
        .option('--limit <n>', 'so many', integer, 50)
        .option('--register <names>', 'names or 0x offsets, with commas')
        .option('--command <names>', 'with one of these commands')
        .addOption(new Option('--access <what>').choices(['read', 'write']))
        .option('--warnings', 'only with hyp warnings')
        .option('--text <text>', 'in anything')
        .option('--follow', 'go on with those that come'),
    async (client, options) => {
      const { limit, register, command, access, warnings, text, follow } = options as {
        limit: number
        register?: string
        command?: string
        access?: string
        warnings?: boolean
        text?: string
        follow?: boolean
      }
      if (follow) {
        const filter = {
          ...(register && { registers: register.split(',') }),
          ...(command && { commands: command.split(',') }),
          ...(access && { access }),
          ...(warnings && { warnings }),
          ...(text && { text }),
        }
        const show = (item: Json) => console.log(client.json ? JSON.stringify(item) : row(item))
        return client.stream('traps', { last: limit, filter }, show)
      }
      const query = { limit, registers: register, commands: command, access, warnings, text }
      client.print(await client.call('GET', path('/traps', query)), ({ items }) => list(items as Json[], row))
    },
  )
  add(
    'trap <id>',
    'one row of the trap log, with all that was done for it',
    command => command.option('--numbered', 'the id is the number of the trap in its machine, as faults tell it'),
    async (client, { numbered }, [id]) => {
      const given = encodeURIComponent(String(id))
      const found = numbered ? (await client.call<Json>('GET', `/traps/numbered/${given}`)).id : given
      client.print(await client.call('GET', `/traps/${found}`), value => {
        const children = value.children as { kind: string; text: string; verdict?: string }[]
        const lines = children.map(
          c => `    ${c.kind.padEnd(9)} ${c.text}${c.verdict && c.verdict !== 'kept' ? ` (${c.verdict})` : ''}`,
        )
        return [row(value.row as Json), ...lines].join('\n')
      })
    },
  )
  for (const what of ['events', 'warnings'] as const) {
    add(
      what,
      what === 'events' ? 'event records, guard faults, losses' : 'hyp warnings',
      command => command.option('--follow', 'go on with what comes'),
      async (client, { follow }) => {
        const line = (item: Json) => [item.at, item.code ?? item.name, item.values ?? item.text].join('  ')
        if (follow)
          return client.stream(what, { last: 1_000 }, item =>
            console.log(client.json ? JSON.stringify(item) : line(item)),
          )
        client.print(await client.call('GET', `/${what}?limit=2000`), ({ items }) => list(items as Json[], line))
      },
    )
  }

  add('registers', 'registers as the host sees them and as the hardware has them', onSmmu, async (client, { smmu }) => {
    type Row = { name: string; host: { value: string; text: string }; hardware: { value: string } }
    client.print(await client.call<Row[]>('GET', `/smmus/${smmu}/registers`), rows =>
      list(rows, ({ name, host, hardware }: Row) => {
        const same = host.value === hardware.value ? ' ' : '≠'
        return `${name.padEnd(16)} ${String(host.value).padEnd(20)} ${same} ${String(hardware.value).padEnd(20)} ${host.text}`
      }),
    )
  })
  add('queues', 'command queue, shadow and event queue', onSmmu, async (client, { smmu }) => {
    type Queue = {
      base: string
      entries: number
      prod: number
      cons: number
      shown: { index: number; text: string; verdict?: string }[]
    }
    client.print(await client.call<Record<string, Queue | null>>('GET', `/smmus/${smmu}/queues`), queues =>
      Object.entries(queues)
        .flatMap(([name, queue]) => {
          if (queue === null) return []
          const head = `${name}: ${queue.entries} entries at ${queue.base}, PROD ${queue.prod} CONS ${queue.cons}`
          const lines = queue.shown
            .slice(-16)
            .map(e => `  ${String(e.index).padStart(6)} ${e.text}${e.verdict ? `  [${e.verdict}]` : ''}`)
          return [head, ...lines]
        })
        .join('\n'),
    )
  })
  add('streams', 'streams with a device, or that the host has set up', onSmmu, async (client, { smmu }) => {
    type Stream = { sid: number; device: { name: string } | null; host: string; shadow: string | null }
    client.print(await client.call<{ streams: Stream[] }>('GET', `/smmus/${smmu}/streams`), ({ streams }) =>
      list(
        streams.filter(s => s.device !== null || s.host !== 'abort'),
        ({ sid, device, host, shadow }: Stream) =>
          `0x${sid.toString(16).padEnd(6)} ${(device?.name ?? '-').padEnd(16)} ${host}${shadow === null ? '' : ` → ${shadow}`}`,
      ),
    )
  })
  add('stream <sid>', 'one stream: entries, context descriptor, tables', onSmmu, async (client, { smmu }, [sid]) => {
    type Entry = { text: string; address: string } | null
    type Detail = { host: Entry; shadow: Entry; cd: Entry; differs: string[] }
    client.print(
      await client.call<Detail>('GET', `/smmus/${smmu}/streams/${Number(sid)}`),
      ({ host, shadow, cd, differs }) =>
        [
          host && `host    ${host.address}  ${host.text}`,
          shadow && `shadow  ${shadow.address}  ${shadow.text}`,
          differs.length > 0 && `differs ${differs.join(' ')}`,
          cd && `cd      ${cd.address}  ${cd.text}`,
        ]
          .filter(Boolean)
          .join('\n'),
    )
  })
  add('walk', 'translate an address step by step', walkOptions, printWalk)

  add(
    'table <address>',
    'one translation table, entries that are not invalid',
    command =>
      onSmmu(command)
        .addOption(new Option('--stage <n>', 'stage').choices(['1', '2']).default('2'))
        .option('--level <n>', 'level of the table, 0 to 3', integer, 0)
        .option('--granule <shift>', 'log2 of the granule', integer, 12)
        .option('--bits <n>', 'input bits of a first table', integer)
        .option('--input <address>', 'first input address that the table translates', address),
    async (client, { smmu, stage, level, granule, bits, input }, [at]) => {
      type Entry = { index: number; input: string; type: string; address: string; size: number; permissions: string }
      const query = { stage, address: at, level, granuleShift: granule, inputBits: bits, input } as Record<
        string,
        string
      >
      const answer = await client.call<{ readable: boolean; entries: Entry[] }>(
        'GET',
        path(`/smmus/${smmu}/table`, query),
      )
      client.print(answer, ({ readable, entries }) =>
        readable
          ? list(
              entries,
              (e: Entry) =>
                `${String(e.index).padStart(4)} ${e.input.padEnd(18)} ${e.type.padEnd(5)} ${e.address} ${e.permissions}`,
            )
          : 'not in RAM',
      )
    },
  )

  const range = (command: Command): Command =>
    command
      .requiredOption('--base <address>', 'guest physical address', address)
      .requiredOption('--size <bytes>', 'bytes, K, M or G', bytes)
      .requiredOption('--vm <id>', 'protected VM', integer)
  for (const what of ['donate', 'reclaim'] as const) {
    add(
      what,
      what === 'donate' ? 'give pages of the host to a protected VM' : 'take pages back, zeroed',
      range,
      async (client, options) => {
        const { ok, result } = await client.call<{ ok: boolean; result: string }>('POST', `/memory/${what}`, options)
        client.print({ ok, result }, () => result)
        if (!ok) process.exitCode = 1
      },
    )
  }
  add(
    'ownership',
    'who owns the pages of a range',
    command => command.option('--from <address>', 'start', address).option('--to <address>', 'end', address),
    async (client, { from, to }) => {
      type Range = { base: string; size: number; state: string; vm: number }
      const query = { from, to } as Record<string, string | undefined>
      client.print(await client.call<{ ranges: Range[] }>('GET', path('/memory/ownership', query)), ({ ranges }) =>
        list(
          ranges,
          ({ base, size, state, vm }: Range) =>
            `${base.padEnd(14)} ${String(size / 1024).padStart(10)} KiB  ${state}${vm ? ` ${vm}` : ''}`,
        ),
      )
    },
  )
  add('reach', 'what devices reach: pages that stage 1 of each stream maps', onSmmu, async (client, { smmu }) => {
    type Stream = { sid: number; config: string; mapped: { iova: string; base: string; size: number }[] }
    client.print(await client.call<Stream[]>('GET', path('/memory/reach', { smmu: Number(smmu) })), streams =>
      list(streams, ({ sid, config, mapped }: Stream) =>
        [
          `0x${sid.toString(16)} ${config}`,
          ...mapped.map(m => `  ${m.iova.padEnd(18)} → ${m.base.padEnd(14)} ${m.size / 1024} KiB`),
        ].join('\n'),
      ),
    )
  })
  add(
    'memory <address>',
    'guest memory',
    command => command.option('--length <bytes>', 'bytes', bytes, 256),
    async (client, { length }, [at]) => {
      const query = { address: at, length: Number(length) }
      client.print(await client.call('GET', path('/memory/bytes', query)), value => {
        const all = Buffer.from(String(value.bytes), 'hex')
        const lines = []
        for (let i = 0; i < all.length; i += 16) {
          const part = all.subarray(i, i + 16)
          const text = part.toString('latin1').replace(/[^\x20-\x7e]/g, '.')
          lines.push(
            `${(Number(value.address) + i).toString(16).padStart(12)}  ${part
              .toString('hex')
              .replace(/(.{8})(?=.)/g, '$1 ')
              .padEnd(36)} ${text}`,
          )
        }
        return lines.join('\n')
      })
    },
  )

  type Point = { id: number; text: string; enabled: boolean; matches: number }
  const point = ({ id, text, enabled, matches }: Point) =>
    `${String(id).padStart(3)} ${enabled ? ' ' : 'off'} ${text} (${matches} matches)`
  add('faults', 'faults that are armed, and what fired', plain, async client => {
    client.print(await client.call<Faults>('GET', '/faults'), faultLines)
  })
  add('fault-list', 'the catalogue of faults', plain, async client => {
    client.print(await client.call<Json[]>('GET', '/faults/catalogue'), entries =>
      list(entries, ({ name, expect, summary }) => `${String(name).padEnd(28)} ${expect}: ${summary}`),
    )
  })
  add(
    'fault-arm <name|file...>',
    'arm faults of the catalogue, or of files, instead of those that are',
    command => command.option('--seed <n>', 'of what is left to chance', integer),
    async (client, { seed }, names) => {
      const rules = names.filter(isFile).flatMap(name => entriesOf(name).flatMap(entry => entry.rules))
      const faults = names.filter(name => !isFile(name))
      const body = { faults, rules, ...(seed !== undefined && { seed }) }
      client.print(await client.call<Faults>('POST', '/faults', body), faultLines)
    },
  )
  add('fault-effect', 'what was counted before the faults were armed, and since', plain, async client => {
    client.print(await client.call<FaultEffect | null>('GET', '/faults/effect'), effectLines)
  })
  add('fault-disarm', 'no faults any more', plain, async client => {
    await client.call('DELETE', '/faults')
  })
  add('fault-fire <rule>', 'carry out a rule of the point machine, now', plain, async (client, _options, [rule]) => {
    await client.call('POST', `/faults/${encodeURIComponent(String(rule))}/fire`)
  })
  add('breakpoints', 'all breakpoints', plain, async client => {
    client.print(await client.call<Point[]>('GET', '/breakpoints'), points => list(points, point))
  })
  add(
    'break <on>',
    'set a breakpoint: on register, command, stream, address, warning or event',
    command =>
      command
        .option('--register <name>', 'name or 0x offset')
        .addOption(new Option('--access <what>').choices(['read', 'write', 'any']))
        .option('--value <number>', 'only this value', address)
        .option('--mask <number>', 'bits of the value that count', address)
        .option('--command <name>', 'e.g. CFGI_STE')
        .option('--sid <n>', 'StreamID', integer)
        .option('--base <address>', 'start of the range', address)
        .option('--size <bytes>', 'of the range', bytes)
        .option('--warning <code>', 'e.g. HYP_CMDQ_TIMEOUT')
        .option('--event <name>', 'e.g. F_TRANSLATION')
        .option('--smmu <n>', 'only this SMMU', integer)
        .option('--skip <n>', 'matches to pass over', integer)
        .option('--once', 'removed by its first hit'),
    async (client, options, [on]) =>
      client.print(await client.call<Point>('POST', '/breakpoints', { on, ...options }), point),
  )
  add('unbreak <id>', 'remove a breakpoint', plain, async (client, _options, [id]) => {
    await client.call('DELETE', `/breakpoints/${encodeURIComponent(String(id))}`)
  })
  for (const enabled of [true, false]) {
    const what = enabled ? 'enable' : 'disable'
    add(`${what} <id>`, `${what} a breakpoint`, plain, async (client, _options, [id]) => {
      await client.call('PATCH', `/breakpoints/${encodeURIComponent(String(id))}`, { enabled })
    })
  }
  add(
    'hold',
    'hold the next trap',
    command => command.option('--off', 'do not any more'),
    async (client, { off }) => {
      await client.call('POST', '/break', { on: off !== true })
    },
  )
  add('held', 'the trap that is held', plain, async client => {
    client.print(await client.call<Parameters<typeof heldText>[0] | null>('GET', '/held'), held =>
      held ? heldText(held) : 'none',
    )
  })
  for (const [action, description] of [
    ['continue', 'let the held trap go on'],
    ['step', 'let it go on and hold the next trap'],
    ['drop', 'let it end undecided: a write is lost, a read answers 0'],
    ['abort', 'let it end in an external abort'],
  ] as const) {
    const changes = action === 'continue' || action === 'step'
    add(
      action,
      description,
      command => (changes ? command.option('--value <number>', 'written instead, or the answer', address) : command),
      async (client, options) => {
        await client.call('POST', '/held/release', { action, ...options })
      },
    )
  }
  add('download <file>', 'the recording of this run', plain, async (client, _options, [file]) => {
    const { body } = await client.fetch('GET', '/api/v1/trace')
    if (body !== null) await pipeline(Readable.fromWeb(body as never), createWriteStream(String(file)))
  })
  add('metrics', 'Prometheus metrics', plain, async client => {
    console.log(await (await client.fetch('GET', '/metrics')).text())
  })
}
