// SPDX-License-Identifier: Apache-2.0
/** A hypervisor at EL2 of the guest's own: what it does, whether devices follow, and who attacks its VMs. */
import { useEffect, useState } from 'preact/hooks'
import type { AttacksView, AttackView, El2View, PageItem } from '../../../api/schemas/pages.ts'
import { call } from '../api.ts'
import { bytes, count, counted, micros } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { subscribe } from '../live.ts'
import { inspectable } from '../store.ts'
import { Empty, Failure, Panel, Scroll, Skeleton, Tag, When } from '../ui.tsx'

const KEPT = 300
const NO_ATTACKS: AttacksView = { attacks: [], secretChanged: null, storm: null }

export function El2() {
  const [attacks, setAttacks] = useState(NO_ATTACKS)
  const [pages, setPages] = useState<readonly PageItem[]>([])
  useEffect(() => {
    const ends = [
      subscribe(
        'attacks',
        {
          items: items => setAttacks(items.at(-1)?.attacks ?? NO_ATTACKS),
          restarted: () => setAttacks(NO_ATTACKS),
        },
        { last: 1 },
      ),
      subscribe(
        'pages',
        {
          items: items => setPages(before => [...before, ...items].slice(-KEPT)),
          restarted: () => setPages([]),
        },
        { last: KEPT, lag: KEPT },
      ),
    ]
    return () => {
      for (const end of ends) end()
    }
  }, [])
  return (
    <div class="view split el2-view">
      <div class="stack">
        <Attacks of={attacks} />
        <State />
      </div>
      <Changes list={pages} />
    </div>
  )
}

function Attacks({ of: { attacks, secretChanged, storm } }: { of: AttacksView }) {
  return (
    <Panel
      title="Attacks on a protected VM"
      flush
      class="grow"
      side={
        secretChanged !== null && (
          <Tag tone={secretChanged === 0 ? 'ok' : 'bad'}>
            {secretChanged === 0 ? 'secret unchanged' : `${secretChanged} words changed`}
          </Tag>
        )
      }
    >
      {attacks.length === 0 ? (
        <Empty title="No attack yet">
          boot --el2 pkvm starts a protected VM in the guest, and attacks it by CPU and by DMA.
        </Empty>
      ) : (
        <Scroll label="Attacks">
          <table class="data attacks">
            <thead>
              <tr>
                <th>Who</th>
                <th>Target</th>
                <th>Address</th>
                <th>The attacker saw</th>
                <th>Stopped by</th>
              </tr>
            </thead>
            <tbody>
              {attacks.map((attack, i) => (
                <tr key={i} class={attack.mustStop && attack.stoppedBy === null ? 'hit' : ''}>
                  <td>
                    <Tag tone={attack.who === 'cpu' ? 'host' : 'hw'}>{attack.who.toUpperCase()}</Tag> {attack.what}
                  </td>
                  <td>{attack.target}</td>
                  <td class="mono">{attack.address}</td>
                  <td>{attack.result}</td>
                  <td>
                    <Stopped attack={attack} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
      {storm !== null && (
        <p class="hint">
          {String(storm.vms)} VMs more, {String(storm.attempts)} DMA attempts: {String(storm.secretsRead)} secrets read,{' '}
          {String(storm.secretsChanged)} changed.
        </p>
      )}
    </Panel>
  )
}

function Stopped({ attack: { stoppedBy, mustStop } }: { attack: AttackView }) {
  if (stoppedBy === null && !mustStop) return <span class="muted">nothing, as it should be</span>
  if (stoppedBy === null) return <Tag tone="bad">nothing</Tag>
  const [who = '', ...what] = stoppedBy.split(': ')
  const tone = who === 'EL2' ? 'hyp' : who === 'SMMU' ? 'hw' : 'plain'
  return (
    <>
      <Tag tone={tone}>{who}</Tag> {what.join(': ')}
    </>
  )
}

function State() {
  const present = inspectable.value
  const el2 = useLoaded(async () => (present ? await call('GET /memory/el2') : null), 3_000, [present])
  return (
    <Panel title="EL2 and the SMMU" side={<Verdict el2={el2.data ?? null} />}>
      {el2.data === undefined ? (
        el2.error ? (
          <Failure error={el2.error} retry={el2.reload} />
        ) : (
          <Skeleton rows={3} />
        )
      ) : el2.data === null ? (
        <Empty title={present ? 'This machine has no EL2' : 'No machine is running'} />
      ) : (
        <Facts el2={el2.data} />
      )}
    </Panel>
  )
}

function Verdict({ el2 }: { el2: El2View | null }) {
  if (el2 === null) return null
  const { agreement, problem } = el2
  if (problem !== null) return <Tag tone="bad">cannot be compared</Tag>
  if (agreement === null) return <Tag tone="warn">not compared</Tag>
  return agreement.wrong === 0 ? <Tag tone="ok">agree</Tag> : <Tag tone="bad">do not agree</Tag>
}

function Facts({ el2: { registers, changes, serverUs, agreement, problem } }: { el2: El2View }) {
  return (
    <>
      <dl class="facts">
        <div>
          <dt>VTTBR_EL2, VTCR_EL2</dt>
          <dd class="mono">{registers === null ? 'none yet' : `${registers.vttbr}, ${registers.vtcr}`}</dd>
        </div>
        <div>
          <dt>Changes of its host's tables</dt>
          <dd>
            {count(changes)}
            {changes > 0 && `; p50 ${micros(serverUs.p50)}, p99 ${micros(serverUs.p99)}`}
          </dd>
        </div>
        {agreement !== null && (
          <div>
            <dt>Compared, page by page</dt>
            <dd>
              {counted(agreement.pages, 'page')}, {bytes(agreement.kept * 4096)} kept by EL2,{' '}
              {bytes(agreement.hypervisor * 4096)} by the server
            </dd>
          </div>
        )}
      </dl>
      {problem !== null && <p class="hint">{problem}</p>}
      {agreement?.disagreements.map(({ base, size, what, who = 'devices' }) => (
        <p key={`${who} ${base}`} class="hint bad-text">
          {bytes(size)} at {base}, {who}: {WRONG[what]}
        </p>
      ))}
    </>
  )
}

const WRONG = {
  reached: 'reached, and kept from the host',
  lost: "not reached, and the host's",
  elsewhere: 'mapped to or from other addresses',
} as const

function Changes({ list }: { list: readonly PageItem[] }) {
  return (
    <Panel title="Pages that changed hands" flush class="grow" side={<span class="muted">{count(list.length)}</span>}>
      {list.length === 0 ? (
        <Empty title="None yet" />
      ) : (
        <Scroll label="Pages that changed hands">
          <table class="data">
            <thead>
              <tr>
                <th>At</th>
                <th>To</th>
                <th>Address</th>
                <th class="num">Size</th>
              </tr>
            </thead>
            <tbody>
              {list.toReversed().map(({ id, at, time, operation, base, size, vm, result }) => (
                <tr key={id}>
                  <td class="muted">
                    <When at={at} time={time} />
                  </td>
                  <td>
                    <NewOwner operation={operation} vm={vm} />
                    {result !== 'OK' && <span class="bad-text"> {result}</span>}
                  </td>
                  <td class="mono">
                    <a href={`#/memory?at=${base}`}>{base}</a>
                  </td>
                  <td class="num">{bytes(size)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  )
}

function NewOwner({ operation, vm }: Pick<PageItem, 'operation' | 'vm'>) {
  if (operation === 'reclaim') return <Tag tone="host">host</Tag>
  if (operation === 'donate') return vm === 0 ? <Tag tone="hyp">EL2</Tag> : <Tag tone="vm">VM {vm}</Tag>
  return <Tag tone="shared">{operation === 'share' ? 'shared' : 'host, alone'}</Tag>
}
