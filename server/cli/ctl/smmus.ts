// SPDX-License-Identifier: Apache-2.0
/** Registers, queues, streams, tables and walks. */
import { Option } from 'commander'
import { EXIT, UsageError } from '../exit.ts'
import { whole } from '../numbers.ts'
import { printWalk, type WalkOptions, walkOptions } from '../walk.ts'
import { type Add, address, list, type OnSmmu, onSmmu } from './command.ts'

/** Entries of a queue that are printed. */
const SHOWN = 16

interface TableOptions extends OnSmmu {
  readonly stage: '1' | '2'
  readonly level: number
  readonly granule: number
  readonly bits?: number
  readonly input?: string
}

export function smmuCommands(add: Add): void {
  add<OnSmmu & { readonly retained?: true }>(
    'power [on|off]',
    'switch an SMMU off or on, as its host would ask for (boot --power); without a word: whether it is on',
    command => onSmmu(command).option('--retained', 'off: it keeps its registers'),
    async (client, { smmu, retained = false }, [to]) => {
      if (to === undefined) {
        client.print(
          await client.call('GET /smmus/:smmu/power', { params: { smmu } }),
          ({ now }) => `SMMU ${smmu} is ${now}`,
        )
        return
      }
      if (to !== 'on' && to !== 'off') throw new UsageError('power: expected on or off')
      const state = to === 'off' && retained ? 'retained' : to
      const answer = await client.call('POST /smmus/:smmu/power', { params: { smmu }, body: { state } })
      client.print(answer, ({ result, now }) => `${result}: SMMU ${smmu} is ${now}`)
      if (!answer.ok) process.exitCode = EXIT.failed
    },
  )
  add<OnSmmu>(
    'registers',
    'registers as the host sees them and as the hardware has them',
    onSmmu,
    async (client, { smmu }) => {
      client.print(await client.call('GET /smmus/:smmu/registers', { params: { smmu } }), rows =>
        list(rows, ({ name, host, hardware }) => {
          const same = host.value === hardware.value ? ' ' : '≠'
          return `${name.padEnd(16)} ${String(host.value).padEnd(20)} ${same} ${String(hardware.value).padEnd(20)} ${host.text}`
        }),
      )
    },
  )
  add<OnSmmu>('queues', 'command queue, shadow and event queue', onSmmu, async (client, { smmu }) => {
    client.print(await client.call('GET /smmus/:smmu/queues', { params: { smmu } }), queues =>
      Object.entries(queues)
        .flatMap(([name, queue]) => {
          if (queue === null) return []
          const head = `${name}: ${queue.entries} entries at ${queue.base}, PROD ${queue.prod} CONS ${queue.cons}`
          const lines = queue.shown
            .slice(-SHOWN)
            .map(e => `  ${String(e.index).padStart(6)} ${e.text}${e.verdict ? `  [${e.verdict}]` : ''}`)
          return [head, ...lines]
        })
        .join('\n'),
    )
  })
  add<OnSmmu>('streams', 'streams with a device, or that the host has set up', onSmmu, async (client, { smmu }) => {
    client.print(await client.call('GET /smmus/:smmu/streams', { params: { smmu } }), ({ streams }) =>
      list(
        streams.filter(s => s.device !== null || s.host !== 'abort'),
        ({ sid, device, host, shadow }) =>
          `0x${sid.toString(16).padEnd(6)} ${(device?.name ?? '-').padEnd(16)} ${host}${shadow === null ? '' : ` → ${shadow}`}`,
      ),
    )
  })
  add<OnSmmu>(
    'stream <sid>',
    'one stream: entries, context descriptor, tables',
    onSmmu,
    async (client, { smmu }, [sid]) => {
      const params = { smmu, sid: Number(sid) }
      client.print(await client.call('GET /smmus/:smmu/streams/:sid', { params }), ({ host, shadow, cd, differs }) =>
        [
          host && `host    ${host.address}  ${host.text}`,
          shadow && `shadow  ${shadow.address}  ${shadow.text}`,
          differs.length > 0 && `differs ${differs.join(' ')}`,
          cd && `cd      ${cd.address}  ${cd.text}`,
        ]
          .filter(Boolean)
          .join('\n'),
      )
    },
  )
  add<WalkOptions>('walk', 'translate an address step by step', walkOptions, printWalk)
  add<TableOptions>(
    'table <address>',
    'one translation table, entries that are not invalid',
    command =>
      onSmmu(command)
        .addOption(new Option('--stage <n>', 'stage').choices(['1', '2']).default('2'))
        .option('--level <n>', 'level of the table, 0 to 3', whole, 0)
        .option('--granule <shift>', 'log2 of the granule', whole, 12)
        .option('--bits <n>', 'input bits of a first table', whole)
        .option('--input <address>', 'first input address that the table translates', address),
    async (client, { smmu, stage, level, granule, bits, input }, [at = '']) => {
      const query = {
        stage: stage === '1' ? 1 : 2,
        address: at,
        level,
        granuleShift: granule,
        inputBits: bits,
        input,
      } as const
      client.print(await client.call('GET /smmus/:smmu/table', { params: { smmu }, query }), ({ readable, entries }) =>
        readable
          ? list(
              entries,
              e =>
                `${String(e.index).padStart(4)} ${e.input.padEnd(18)} ${e.type.padEnd(5)} ${e.address} ${e.permissions}`,
            )
          : 'not in RAM',
      )
    },
  )
}
