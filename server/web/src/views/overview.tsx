// SPDX-License-Identifier: Apache-2.0
import { useState } from 'preact/hooks'
import type { CountersView, StartOptions } from '../../../api/schemas/lifecycle.ts'
import type { Power as PowerState } from '../../../api/schemas/smmus.ts'
import { call, currentToken, downloadTrace } from '../api.ts'
import { Histogram, Share, Trend } from '../charts.tsx'
import { BY_QEMU, bytes, clock, count, counted, hex, micros } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { recording } from '../recorded/open.ts'
import { counters, events, go, machineState, rate, rates, reachable, running, status, warnings } from '../store.ts'
import { attempt, Button, Choice, Empty, Panel, Scroll, Skeleton, sectionHref, Tag, When } from '../ui.tsx'
import { NoMachine } from './none.tsx'

const PHASES = [
  ['qemu', 'QEMU'],
  ['kernel', 'Kernel'],
  ['smmu', 'SMMU on'],
  ['userspace', 'Userspace'],
  ['done', 'Workload done'],
] as const

export function Overview() {
  const now = status.value
  const [minutes, setMinutes] = useState<'2' | '20'>('2')
  if (now === undefined) return <Skeleton rows={10} />
  const c = counters.value
  if (now.run === 0) return <NoMachine what="What is counted" />
  // A machine that never ran has nothing to count.
  if (!running.value && (c === undefined || c.traps === 0)) {
    return (
      <div class="view column">
        <Machine />
        <Reports c={c} />
      </div>
    )
  }
  return (
    <div class="view overview">
      <Machine />
      <Panel
        title="Traps per second"
        class="rate"
        side={
          <>
            <Choice
              label="Time shown"
              value={minutes}
              options={[
                ['2', '2 min'],
                ['20', '20 min'],
              ]}
              change={setMinutes}
            />
            <b class="figure">{count(rate.value)}</b>
          </>
        }
      >
        <Trend points={rates.value} seconds={Number(minutes) * 60} unit="traps per second" />
      </Panel>
      <Panel
        title="Server time per trap"
        class="latency"
        side={c && <span class="muted">p99 as QEMU sees it {micros(c.latencyUs.p99)}</span>}
      >
        {c && c.traps > 0 ? (
          <Histogram
            buckets={c.histogram}
            marks={[
              ['p50', c.serverUs.p50],
              ['p90', c.serverUs.p90],
              ['p99', c.serverUs.p99],
            ]}
          />
        ) : (
          <Empty title="No traps yet">The guest has not touched the SMMU's registers.</Empty>
        )}
      </Panel>
      <Registers c={c} />
      {hasCommands(c) && <Commands c={c} />}
      <Reports c={c} />
    </div>
  )
}

function Machine() {
  const now = status.value
  const c = counters.value
  if (now === undefined) return null
  const { machine, options, phase } = now
  const at = PHASES.findIndex(([id]) => id === phase)
  return (
    <Panel title="Machine" class="machine" side={now.run > 0 && <Recording />}>
      <ol class="phases" aria-label="Boot phase">
        {PHASES.map(([id, name], i) => (
          <li key={id} class={i < at ? 'past' : i === at ? 'now' : ''} aria-current={i === at ? 'step' : undefined}>
            {name}
          </li>
        ))}
      </ol>
      {now.guest !== null && (
        <p class="ended bad" role="alert">
          The guest’s kernel said{' '}
          {now.guest === 'panic' ? 'a panic' : now.guest === 'oops' ? 'an oops' : 'that it hangs'}:{' '}
          <a href="#/console">see its console</a>
        </p>
      )}
      {!running.value && now.end !== null && (
        <p class={`ended ${now.end.outcome === 'ok' || now.end.outcome === 'killed' ? '' : 'bad'}`}>
          Run {now.run} ended at {clock(now.end.at)} by the server’s clock: {now.end.message}
        </p>
      )}
      <dl class="facts">
        <Fact name="Policy" value={options ? policyText(options) : '–'} />
        <Fact name="Kernel" value={now.kernel ?? '–'} />
        <Fact name="QEMU" value={machine ? `${machine.qemu}, ${counted(machine.vcpus, 'vCPU')}` : '–'} />
        <Fact name="RAM" value={machine ? machine.ram.map(r => `${bytes(r.size)} at ${r.base}`).join(', ') : '–'} />
        <Fact
          name="Hypervisor"
          value={
            machine && machine.carveout.size > 0 ? `${bytes(machine.carveout.size)} at ${machine.carveout.base}` : '–'
          }
        />
        <Fact name="Guest step" value={now.step ?? '–'} />
      </dl>
      {options?.power !== undefined && machine !== null && <Power smmus={machine.smmus.length} c={c} />}
      <dl class="tallies">
        <Tally name="traps" value={c?.traps} />
        <Tally name="reads" value={c?.reads} />
        <Tally name="writes" value={c?.writes} />
        <Tally name={BY_QEMU} value={c?.predicted} />
        <Tally name="aborted" value={c?.aborted} bad />
        {hasCommands(c) && <Tally name="commands" value={c?.commands.reduce((sum, k) => sum + total(k), 0)} />}
        <Tally name="guard faults" value={c?.guardFaults} bad />
        <Tally name="resets" value={c?.resets} />
        <Tally name="records lost" value={c?.lost} bad />
      </dl>
    </Panel>
  )
}

const policyText = ({ policy = 'pkvm', until = 'nested', blocks = false, bbm, power, quirks = [] }: StartOptions) =>
  [
    policy === 'pkvm' ? `pkvm, until ${until}` : policy,
    ...(blocks ? [`blocks${bbm === undefined ? '' : `, BBM level ${bbm}`}`] : []),
    ...(power === undefined ? [] : [`power ${power}`]),
    ...(quirks.length > 0 ? [`quirks ${quirks.join(', ')}`] : []),
  ].join(', ')

const POWER_WORDS = { on: 'on', retained: 'off, registers kept', off: 'off' } as const

/** Which SMMUs are on, and buttons to have them switched, as the host would ask for it. */
function Power({ smmus, c }: { smmus: number; c: CountersView | undefined }) {
  const { off = 0, on = 0, refused = 0 } = c?.power ?? {}
  const live = recording.value === undefined && (machineState.value === 'running' || machineState.value === 'paused')
  // Of a machine that ends there is nobody to be asked.
  const told = live || recording.value !== undefined || machineState.value === 'held' ? smmus : 0
  const states = useLoaded(
    () => Promise.all(Array.from({ length: told }, (_, smmu) => call('GET /smmus/:smmu/power', { params: { smmu } }))),
    0,
    [told, off, on, c?.resets],
  )
  const change = (smmu: number, state: PowerState) => () =>
    void attempt(async () => {
      const { ok, result } = await call('POST /smmus/:smmu/power', { params: { smmu }, body: { state } })
      if (!ok) throw new Error(`SMMU ${smmu} stays as it is: ${result}`)
      states.reload()
    })
  return (
    <div class="power">
      {(states.data ?? []).map(({ now }, smmu) => (
        <span key={smmu} class="buttons">
          SMMU {smmu} <Tag tone={now === 'on' ? 'ok' : 'warn'}>{POWER_WORDS[now]}</Tag>
          {live &&
            (now === 'on' ? (
              <>
                <Button class="small" onClick={change(smmu, 'off')} aria-label={`Switch SMMU ${smmu} off`}>
                  Off
                </Button>
                <Button
                  class="small"
                  onClick={change(smmu, 'retained')}
                  aria-label={`Switch SMMU ${smmu} off, retained`}
                >
                  Off, retained
                </Button>
              </>
            ) : (
              <Button class="small" onClick={change(smmu, 'on')} aria-label={`Switch SMMU ${smmu} on`}>
                On
              </Button>
            ))}
        </span>
      ))}
      <span class="muted">
        switched off: {count(off)}, on: {count(on)}, refused: {count(refused)}
      </span>
    </div>
  )
}

/** The browser sends no token with a link, so with a token the file is fetched by script. */
const Recording = () =>
  currentToken() === null && recording.value === undefined && reachable.value ? (
    <a class="button small" href="/api/v1/trace" download>
      Download recording
    </a>
  ) : (
    <Button class="small" onClick={() => void attempt(() => downloadTrace('trace.smtr'))}>
      Download recording
    </Button>
  )

const Fact = ({ name, value }: { name: string; value: string }) => (
  <div>
    <dt>{name}</dt>
    <dd title={value}>{value}</dd>
  </div>
)

const Tally = ({ name, value, bad }: { name: string; value: number | undefined; bad?: boolean }) => (
  <div class={bad && value ? 'bad' : ''}>
    <dd>{value === undefined ? '–' : count(value)}</dd>
    <dt>{name}</dt>
  </div>
)

function Registers({ c }: { c: CountersView | undefined }) {
  // The largest fills its cell.
  const total = Math.max(1, ...(c?.registers ?? []).map(({ reads, writes }) => reads + writes))
  return (
    <Panel title="By register" class="registers" flush>
      {!c || c.registers.length === 0 ? (
        <Empty title="Nothing counted yet" />
      ) : (
        <Scroll label="By register">
          <table class="data">
            <thead>
              <tr>
                <th>Register</th>
                <th class="num host-text">Reads</th>
                <th class="num hw-text">Writes</th>
                <th class="bar-cell">Share</th>
              </tr>
            </thead>
            <tbody>
              {c.registers.map(({ register, reads, writes, offset }) => (
                <tr key={register} class="link" onClick={() => go('traps', { registers: register })}>
                  <td>
                    <a href={`#/traps?registers=${encodeURIComponent(register)}`} title={`offset ${hex(offset)}`}>
                      {register}
                    </a>
                  </td>
                  <td class="num">{count(reads)}</td>
                  <td class="num">{count(writes)}</td>
                  <td class="bar-cell">
                    <Share
                      total={total}
                      parts={[
                        ['host', reads],
                        ['hw', writes],
                      ]}
                    />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  )
}

const total = (k: CountersView['commands'][number]): number => k.kept + k.rewritten + k.dropped + k.own

/** Some policies look at no command: of a machine that is off there is nothing to be said of them. */
const hasCommands = (c: CountersView | undefined): boolean =>
  running.value || (c !== undefined && c.commands.length > 0)

function Commands({ c }: { c: CountersView | undefined }) {
  return (
    <Panel title="Commands and verdicts" class="commands" flush>
      {!c || c.commands.length === 0 ? (
        <Empty title="No command was filtered yet">Some policies look at none.</Empty>
      ) : (
        <Scroll label="Commands and verdicts">
          <table class="data">
            <thead>
              <tr>
                <th>Command</th>
                <th class="num host-text">Kept</th>
                <th class="num warn-text">Rewritten</th>
                <th class="num bad-text">Dropped</th>
                <th class="num hyp-text">Own</th>
              </tr>
            </thead>
            <tbody>
              {[...c.commands]
                .sort((a, b) => total(b) - total(a))
                .map(k => (
                  <tr key={k.opcode} class="link" onClick={() => go('traps', { commands: k.command })}>
                    <td>
                      <a href={`#/traps?commands=${encodeURIComponent(k.command)}`} title={`opcode ${hex(k.opcode)}`}>
                        {k.command}
                      </a>
                    </td>
                    <td class="num">{count(k.kept)}</td>
                    <td class={`num ${k.rewritten > 0 ? 'warn-text' : ''}`}>{count(k.rewritten)}</td>
                    <td class={`num ${k.dropped > 0 ? 'bad-text' : ''}`}>{count(k.dropped)}</td>
                    <td class="num">{count(k.own)}</td>
                  </tr>
                ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  )
}

/** Kinds of events that are nobody's fault. */
const PLAIN: ReadonlySet<string> = new Set(['machine', 'reset', 'power'])

function Reports({ c }: { c: CountersView | undefined }) {
  const unexpected = (c?.warnings ?? []).filter(w => !w.expected).reduce((sum, w) => sum + w.count, 0)
  const list = [
    ...warnings.value.map(w => ({
      at: w.at,
      time: w.time,
      tone: w.expected ? ('plain' as const) : ('warn' as const),
      name: w.code,
      text: w.values,
      row: w.row,
      title: w.meaning,
      href: sectionHref(w.section),
    })),
    ...events.value.map(e => ({
      at: e.at,
      time: e.time,
      tone: PLAIN.has(e.kind) ? ('plain' as const) : ('bad' as const),
      name: e.name,
      text: e.text.replace(`${e.name} `, '').trim(),
      row: 0,
      title: e.kind,
      href: undefined,
    })),
  ].sort((a, b) => (a.at < b.at ? 1 : -1))
  return (
    <Panel
      title="Warnings and events"
      class="reports"
      flush
      side={
        <Tag tone={unexpected > 0 ? 'warn' : 'ok'}>
          {unexpected > 0 ? `${unexpected} unexpected` : 'none unexpected'}
        </Tag>
      }
    >
      {list.length === 0 ? (
        <Empty title="Quiet">No hyp warning, no event record, no guard fault so far.</Empty>
      ) : (
        <Scroll label="Warnings and events">
          <ul class="reports-list">
            {list.slice(0, 200).map((r, i) => (
              <li key={i}>
                <When at={r.at} time={r.time} />
                {r.href === undefined ? (
                  <Tag tone={r.tone} title={r.title}>
                    {r.name}
                  </Tag>
                ) : (
                  <a href={r.href}>
                    <Tag tone={r.tone} title={`${r.title} Its rule is a click away.`}>
                      {r.name}
                    </Tag>
                  </a>
                )}
                {r.row > 0 ? (
                  <a class="mono" href={`#/traps?row=${r.row}`}>
                    {r.text || 'show the trap'}
                  </a>
                ) : (
                  <span class="mono">{r.text}</span>
                )}
              </li>
            ))}
          </ul>
        </Scroll>
      )}
    </Panel>
  )
}
