// SPDX-License-Identifier: Apache-2.0
/** Traps, events, warnings, and the recording. */

import { Option } from 'commander'
import type { EventItem, TrapRow, WarningItem } from '../../api/schemas/trace.ts'
import { whole } from '../numbers.ts'
import { print } from '../terminal.ts'
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
    `${us.toFixed(1)} µs`.padStart(11),
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
    async (client, { limit, register, command, access, warnings, text, follow }) => {
      if (follow) {
        const filter = {
          ...(register && { registers: register.split(',') }),
          ...(command && { commands: command.split(',') }),
          ...(access && { access }),
          ...(warnings && { warnings }),
          ...(text && { text }),
        }
        return client.stream('traps', { last: limit, filter }, row =>
          print(client.json ? JSON.stringify(row) : rowText(row)),
        )
      }
      const query = { limit, registers: register, commands: command, access, warnings, text }
      client.print(await client.call('GET /traps', { query }), ({ items }) => list(items, rowText))
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
            (n, i) => `${seconds(from + (i * (to - from)) / traps.length)} s ${String(n).padStart(8)} traps`,
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
