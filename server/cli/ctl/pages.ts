// SPDX-License-Identifier: Apache-2.0
/** Guest memory: who owns a page, who reaches it, what is in it. */
import type { Command } from 'commander'
import type { Body } from '../../api/schemas/contract.ts'
import type { AttackView, El2View, OracleView, OwnedRange } from '../../api/schemas/pages.ts'
import { counted, grouped } from '../../trace/words.ts'
import { EXIT } from '../exit.ts'
import { whole } from '../numbers.ts'
import { type Add, address, bytes, list, type OnSmmu, onSmmu, plain } from './command.ts'

const range = (command: Command): Command =>
  command
    .requiredOption('--base <address>', 'guest physical address', address)
    .requiredOption('--size <bytes>', 'bytes, K, M or G', bytes)
    .requiredOption('--vm <id>', 'protected VM', whole)

export function pageCommands(add: Add): void {
  for (const [what, description] of [
    ['donate', 'give pages of the host to a protected VM'],
    ['reclaim', 'take pages back, zeroed'],
  ] as const) {
    add<Body<'POST /memory/donate'>>(what, description, range, async (client, body) => {
      const answer = await client.call(`POST /memory/${what}`, { body })
      client.print(answer, ({ result }) => result)
      if (!answer.ok) process.exitCode = EXIT.failed
    })
  }
  add<{ readonly from?: string; readonly to?: string }>(
    'ownership',
    'who owns the pages of a range',
    command => command.option('--from <address>', 'start', address).option('--to <address>', 'end', address),
    async (client, { from, to }) => {
      client.print(await client.call('GET /memory/ownership', { query: { from, to } }), ({ ranges, el2 }) =>
        [list(ranges, owned), ...(el2 === null ? [] : ["as EL2's tables have it", list(el2, owned)])].join('\n'),
      )
    },
  )
  add('el2', 'whether devices reach what a hypervisor at EL2 lets its host reach', plain, async client => {
    client.print(await client.call('GET /memory/el2'), el2Text)
  })
  add(
    'oracle',
    'what the oracle of isolation has found; fails if that is anything, or nothing is judged',
    plain,
    async client => {
      const report = await client.call('GET /memory/oracle')
      client.print(report, oracleText)
      if (report === null || report.unjudged !== null || report.violations.length > 0) process.exitCode = EXIT.failed
    },
  )
  add('attacks', "what a protected VM's host attacked, and what stopped it", plain, async client => {
    client.print(await client.call('GET /memory/attacks'), ({ attacks, secretChanged }) => {
      const secret = secretChanged === null ? '' : `\nwords of the secret that were changed: ${secretChanged}`
      return `${list(attacks, attackText)}${secret}`
    })
  })
  add<OnSmmu>(
    'reach',
    'what devices reach: pages that stage 1 of each stream maps',
    onSmmu,
    async (client, { smmu }) => {
      client.print(await client.call('GET /memory/reach', { query: { smmu } }), streams =>
        list(streams, ({ sid, config, mapped }) =>
          [
            `0x${sid.toString(16)} ${config}`,
            ...mapped.map(m => `  ${m.iova.padEnd(18)} → ${m.base.padEnd(14)} ${m.size / 1024} KiB`),
          ].join('\n'),
        ),
      )
    },
  )
  add<{ readonly length: number }>(
    'memory <address>',
    'guest memory',
    command => command.option('--length <bytes>', 'bytes', bytes, 256),
    async (client, { length }, [at = '']) => {
      const answer = await client.call('GET /memory/bytes', { query: { address: at, length } })
      client.print(answer, ({ address, bytes }) => dump(Number(address), Buffer.from(bytes, 'hex')))
    },
  )
}

const owned = ({ base, size, state, vm }: OwnedRange): string =>
  `${base.padEnd(14)} ${String(size / 1024).padStart(10)} KiB  ${state}${vm ? ` ${vm}` : ''}`

const attackText = ({ who, what, target, address, result, stoppedBy, mustStop }: AttackView): string => {
  const stopped = stoppedBy ?? (mustStop ? 'NOTHING' : 'nothing, as it should be')
  return `${who} ${what.padEnd(5)} ${target.padEnd(10)} ${address.padEnd(11)} ${result.padEnd(15)} stopped by ${stopped}`
}

function el2Text(el2: El2View | null): string {
  if (el2 === null) return 'the machine has no EL2'
  const { registers, changes, agreement, problem } = el2
  const lines = [
    registers === null
      ? 'EL2 keeps no tables for its host'
      : `VTTBR_EL2 ${registers.vttbr}, VTCR_EL2 ${registers.vtcr}`,
    `its host's tables changed ${counted(changes, 'time')}`,
  ]
  if (problem !== null) lines.push(`it cannot be compared with the SMMU: ${problem}`)
  else if (agreement === null && registers !== null) lines.push('it is not compared: no device has a second stage')
  if (agreement !== null) {
    const { pages, kept, wrong, disagreements } = agreement
    const disagree = wrong === 0 ? 'agree' : `DO NOT AGREE on ${counted(wrong, 'page')}`
    lines.push(
      `SMMU and EL2 ${disagree} (${counted(pages, 'page')} checked, ${grouped(kept)} of them kept from the host)`,
    )
    lines.push(...disagreements.map(({ base, size, what }) => `${base.padEnd(14)} ${size / 1024} KiB  ${what}`))
  }
  return lines.join('\n')
}

function oracleText(report: OracleView | null): string {
  if (report === null) return 'the machine is not watched'
  const { unjudged, samples, wholes, hypervisorPages, vmPages, violations, more } = report
  return [
    unjudged === null ? 'isolation is judged' : `nothing is judged: ${unjudged}`,
    `${counted(samples, 'sample')}, ${counted(wholes, 'look')} at all of it`,
    `${counted(hypervisorPages, 'page')} of the hypervisor, ${grouped(vmPages)} of VMs`,
    violations.length === 0 ? 'nothing was found' : counted(violations.length + more, 'violation'),
    ...violations.flatMap(({ message, walk }) => [message, ...walk.map(line => `  ${line}`)]),
  ].join('\n')
}

/** Sixteen bytes a line, with what is printable of them. */
function dump(address: number, bytes: Buffer): string {
  const lines = []
  for (let i = 0; i < bytes.length; i += 16) {
    const part = bytes.subarray(i, i + 16)
    const words = part.toString('hex').replace(/(.{8})(?=.)/g, '$1 ')
    const text = part.toString('latin1').replace(/[^\x20-\x7e]/g, '.')
    lines.push(`${(address + i).toString(16).padStart(12)}  ${words.padEnd(36)} ${text}`)
  }
  return lines.join('\n')
}
