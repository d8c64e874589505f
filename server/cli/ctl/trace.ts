// SPDX-License-Identifier: Apache-2.0
/** Traps, events, warnings, and the recording. */

import { Option } from 'commander'
import type { Answer } from '../../api/schemas/contract.ts'
import type { EventItem, TrapRow, TrapsQuery, WarningItem } from '../../api/schemas/trace.ts'
import { counted, grouped, took } from '../../trace/words.ts'
import { whole } from '../numbers.ts'
import { print, say } from '../terminal.ts'
import type { Client } from './client.ts'
import { type Add, list } from './command.ts'

function rowText({ seq, time, write, register, value, text, us, warnings, commands, aborted, kind, where }: TrapRow) {
  if (kind !== 'trap') return `${kind} ${text}`
  const counted = commands
    .map(c => `${c.command}${c.count > 1 ? `×${c.count}` : ''}${c.verdict === 'kept' ? '' : `(${c.verdict})`}`)
    .join(' ')
  const words = [
    String(seq).padStart(7),
    `${(Number(time) / 1e9).toFixed(6)}`.padStart(11),
    write ? 'W' : 'R',
    String(register).padEnd(16),
    String(value).padEnd(12),
    took(us).padStart(16),
    counted || text,
    where ? `in ${where}` : '',
    aborted ? 'ABORTED' : '',
    warnings.join(' '),
  ]
  return words.filter(Boolean).join(' ')
}

const eventText = ({ at, name, text }: EventItem): string => [at, name, text].join('  ')
const warningText = ({ at, code, values }: WarningItem): string => [at, code, values].join('  ')

const seconds = (ns: number): string => (ns / 1e9).toFixed(6).padStart(11)

interface TrapsOptions {
  readonly limit: number
  readonly register?: string
  readonly command?: string
  readonly access?: 'read' | 'write'
  readonly warnings?: true
  readonly text?: string
  readonly follow?: true
}

interface FollowOptions {
  readonly follow?: true
}

/** Limit and filter; what is undefined is not asked for. */
type LastTraps = { readonly [K in keyof TrapsQuery]: TrapsQuery[K] | undefined } & { readonly limit: number }

/** The last rows that match, however far back they are: one answer is of a part of all rows. */
async function lastTraps(client: Client, query: LastTraps): Promise<Answer<'GET /traps'>> {
  const newest = await client.call('GET /traps', { query })
  let { items, from, missing } = newest
  while (items.length < query.limit && from > 1) {
    const rest = { ...query, limit: query.limit - items.length, before: from }
    const page = await client.call('GET /traps', { query: rest })
    if (page.from >= from) break
    items = [...page.items, ...items]
    from = page.from
    missing += page.missing
  }
  return { ...newest, items, from, missing }
}

/** Why there are fewer rows than were asked for. */
function lookedThrough({ items, from, next, missing }: Answer<'GET /traps'>): string {
  const older = from > 1 ? ', older ones are not kept' : ''
  const gone = missing > 0 ? `, ${grouped(missing)} of them neither in memory nor in a recording` : ''
  const found = counted(items.length, 'row matches', 'rows match')
  return `${found}: looked through ${grouped(from)} to ${grouped(next - 1)}${gone}${older}`
}

/** How far back --follow begins. */
const KEPT = 1_000

export function traceCommands(add: Add): void {
  add<TrapsOptions>(
    'traps',
    'the last traps, or those that come',
    command =>
      command
        .option('--limit <n>', 'so many', whole, 50)
        .option('--register <names>', 'names or 0x offsets, with commas')
        .option('--command <names>', 'with one of these commands')
        .addOption(new Option('--access <what>').choices(['read', 'write']))
        .option('--warnings', 'only with hyp warnings')
        .option('--text <text>', 'in anything')
        .option('--follow', 'go on with those that come'),
    async (client, { limit, register: registers, command: commands, access, warnings, text, follow }) => {
      if (follow) {
        const filter = {
          ...(registers && { registers: registers.split(',') }),
          ...(commands && { commands: commands.split(',') }),
          ...(access && { access }),
          ...(warnings && { warnings }),
          ...(text && { text }),
        }
        return client.stream('traps', { last: limit, filter }, row =>
          print(client.json ? JSON.stringify(row) : rowText(row)),
        )
      }
      const query = { limit, registers, commands, access, warnings, text }
      const found = await lastTraps(client, query)
      client.print(found, ({ items }) => list(items, rowText))
      const filtered = registers !== undefined || commands !== undefined || access !== undefined || warnings || text
      if (found.items.length < limit && (filtered || found.missing > 0)) say(lookedThrough(found))
    },
  )
  add<{ readonly numbered?: true }>(
    'trap <id>',
    'one row of the trap log, with all that was done for it',
    command => command.option('--numbered', 'the id is the number of the trap in its machine, as faults tell it'),
    async (client, { numbered }, [given]) => {
      const number = Number(given)
      const id = numbered ? (await client.call('GET /traps/numbered/:seq', { params: { seq: number } })).id : number
      client.print(await client.call('GET /traps/:id', { params: { id } }), ({ row, children }) => {
        const lines = children.map(
          c => `    ${c.kind.padEnd(9)} ${c.text}${c.verdict && c.verdict !== 'kept' ? ` (${c.verdict})` : ''}`,
        )
        return [rowText(row), ...lines].join('\n')
      })
    },
  )
  add<{ readonly from?: number; readonly to?: number; readonly bins: number }>(
    'timeline',
    'how many traps there were over guest time, and what else happened',
    command =>
      command
        .option('--from <ns>', "guest's virtual clock", whole)
        .option('--to <ns>', "guest's virtual clock", whole)
        .option('--bins <n>', 'parts of equal length', whole, 20),
    async (client, query) =>
      client.print(await client.call('GET /traps/timeline', { query }), ({ from, to, traps, marks }) =>
        [
          ...traps.map(
            (n, i) =>
              `${seconds(from + (i * (to - from)) / traps.length)} s ${grouped(n).padStart(9)} ${n === 1 ? 'trap' : 'traps'}`,
          ),
          ...marks.map(({ time, kind, text }) => `${seconds(time)} s ${kind} ${text}`),
        ].join('\n'),
      ),
  )
  add<FollowOptions>(
    'events',
    'event records, guard faults, losses',
    command => command.option('--follow', 'go on with what comes'),
    async (client, { follow }) => {
      if (follow) {
        return client.stream('events', { last: KEPT }, item =>
          print(client.json ? JSON.stringify(item) : eventText(item)),
        )
      }
      const query = { limit: 2_000 }
      client.print(await client.call('GET /events', { query }), ({ items }) => list(items, eventText))
    },
  )
  add<FollowOptions>(
    'warnings',
    'hyp warnings',
    command => command.option('--follow', 'go on with what comes'),
    async (client, { follow }) => {
      if (follow) {
        return client.stream('warnings', { last: KEPT }, item =>
          print(client.json ? JSON.stringify(item) : warningText(item)),
        )
      }
      const query = { limit: 2_000 }
      client.print(await client.call('GET /warnings', { query }), ({ items }) => list(items, warningText))
    },
  )
  add<{ readonly of?: string }>(
    'download <file>',
    'the recording of this run',
    command => command.option('--of <name>', 'an earlier one, by its name among the recordings'),
    (client, { of }, [file = '']) =>
      client.download(file, of === undefined ? '/trace' : `/recordings/${encodeURIComponent(of)}/file`),
  )
}
